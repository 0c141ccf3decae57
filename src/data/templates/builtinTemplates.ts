import type {TemplateArgs} from './template.ts';

const header = (role: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n`;
const answerHeader = header('assistant');

/** The built-in templates, each as LLaMA-Factory has it under this name. */
export const BUILTIN_TEMPLATES: Record<string, TemplateArgs> = {
  /** Llama 3, 3.1, 3.2 and 3.3, without a default system text; Meta's chat template writes a dated one. */
  llama3: {
    prefix: [{special: 'bos'}],
    system: [`${header('system')}{{content}}<|eot_id|>`],
    user: [`${header('user')}{{content}}<|eot_id|>${answerHeader}`],
    assistant: ['{{content}}<|eot_id|>'],
    observation: [`${header('ipython')}{{content}}<|eot_id|>${answerHeader}`],
    toolFormat: 'llama3',
    stopWords: ['<|eot_id|>', '<|eom_id|>'],
    replaceEos: true,
  },
  alpaca: {
    user: ['### Instruction:\n{{content}}\n\n### Response:\n'],
    assistant: ['{{content}}', {special: 'eos'}, '\n\n'],
    defaultSystem:
      'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n',
    replaceChatTemplate: true,
  },
  chatml: {
    system: ['<|im_start|>system\n{{content}}<|im_end|>\n'],
    user: ['<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n'],
    assistant: ['{{content}}<|im_end|>\n'],
    observation: ['<|im_start|>tool\n{{content}}<|im_end|>\n<|im_start|>assistant\n'],
    stopWords: ['<|im_end|>', '<|im_start|>'],
    replaceEos: true,
    replaceChatTemplate: true,
  },
  default: {
    system: ['System: {{content}}', {special: 'eos'}, '\n'],
    user: ['Human: {{content}}', {special: 'eos'}, '\nAssistant:'],
    assistant: ['{{content}}', {special: 'eos'}, '\n'],
    replaceChatTemplate: true,
  },
  /** Plain texts one after the other, with an empty line after each answer; for benchmarks. */
  fewshot: {
    assistant: ['{{content}}\n\n'],
    efficientEos: true,
    replaceChatTemplate: true,
  },
  /** Plain texts, with nothing around them and nothing at the end of an answer. */
  empty: {
    assistant: ['{{content}}'],
  },
};

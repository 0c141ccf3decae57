import type {TemplateArgs} from './template.ts';

const header = (role: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n`;
const answerHeader = header('assistant');

const smollm: TemplateArgs = {
  system: ['<|im_start|>system\n{{content}}<|im_end|>\n'],
  user: ['<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n'],
  assistant: ['{{content}}<|im_end|>\n'],
  stopWords: ['<|im_end|>'],
};

const qwen: TemplateArgs = {
  ...smollm,
  observation: [
    '<|im_start|>user\n<tool_response>\n{{content}}\n</tool_response><|im_end|>\n<|im_start|>assistant\n',
  ],
  toolFormat: 'qwen',
  replaceEos: true,
};

const gemma: TemplateArgs = {
  prefix: [{special: 'bos'}],
  system: ['{{content}}\n\n'],
  user: ['<start_of_turn>user\n{{content}}<end_of_turn>\n<start_of_turn>model\n'],
  assistant: ['{{content}}<end_of_turn>\n'],
  observation: ['<start_of_turn>tool\n{{content}}<end_of_turn>\n<start_of_turn>model\n'],
  systemInUser: true,
};

const phi: TemplateArgs = {
  system: ['<|system|>\n{{content}}<|end|>\n'],
  user: ['<|user|>\n{{content}}<|end|>\n<|assistant|>\n'],
  assistant: ['{{content}}<|end|>\n'],
  stopWords: ['<|end|>'],
  replaceEos: true,
};

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
  mistral: {
    prefix: [{special: 'bos'}],
    system: ['{{content}}\n\n'],
    user: ['[INST] {{content}}[/INST]'],
    assistant: [' {{content}}', {special: 'eos'}],
    function: ['[TOOL_CALLS] {{content}}', {special: 'eos'}],
    observation: ['[TOOL_RESULTS] {"content": {{content}}}[/TOOL_RESULTS]'],
    systemInUser: true,
    toolFormat: 'mistral',
  },
  mistral_small: {
    prefix: [{special: 'bos'}],
    system: ['[SYSTEM_PROMPT]{{content}}[/SYSTEM_PROMPT]'],
    user: ['[INST]{{content}}[/INST]'],
    function: ['[TOOL_CALLS]{{content}}', {special: 'eos'}],
    observation: ['[TOOL_RESULTS]{"content": {{content}}}[/TOOL_RESULTS]'],
    toolFormat: 'mistral',
  },
  qwen: {...qwen, defaultSystem: 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.'},
  qwen3: {...qwen, thoughtWords: ['<think>\n', '\n</think>\n\n']},
  qwen3_nothink: qwen,
  gemma: {...gemma, stopWords: ['<end_of_turn>'], replaceEos: true},
  gemma2: {...gemma, stopWords: ['<eos>', '<end_of_turn>'], efficientEos: true},
  gemma3: {...gemma, stopWords: ['<end_of_turn>'], replaceEos: true},
  /** Phi-3 and 3.5. */
  phi,
  /** Its `<|endoftext|>` at the start is in LLaMA-Factory's source, but not in what LLaMA-Factory writes. */
  phi_small: phi,
  phi4: {
    system: ['<|im_start|>system<|im_sep|>{{content}}<|im_end|>'],
    user: ['<|im_start|>user<|im_sep|>{{content}}<|im_end|><|im_start|>assistant<|im_sep|>'],
    assistant: ['{{content}}<|im_end|>'],
    stopWords: ['<|im_end|>'],
    replaceEos: true,
  },
  phi4_mini: {
    system: ['<|system|>{{content}}<|end|>'],
    user: ['<|user|>{{content}}<|end|><|assistant|>'],
    assistant: ['{{content}}<|end|>'],
    toolFormat: 'phi4_mini',
    stopWords: ['<|end|>'],
    replaceEos: true,
  },
  smollm,
  smollm2: {
    ...smollm,
    defaultSystem: 'You are a helpful AI assistant named SmolLM, trained by Hugging Face.',
  },
};

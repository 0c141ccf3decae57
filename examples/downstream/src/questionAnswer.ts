import {registerTemplate} from 'tfjs-lora/data';

/** The name of a template without special tokens but the end of an answer, for base models: `template: question_answer`. */
export const QUESTION_ANSWER = 'question_answer';

registerTemplate(QUESTION_ANSWER, {
  system: ['{{content}}\n\n'],
  user: ['Question: {{content}}\nAnswer:'],
  assistant: [' {{content}}', {special: 'eos'}, '\n'],
});

import type {Tokenizer} from '../../../models/tokenizer.ts';
import {encodeConversation} from '../../../src/data/preprocessing/encodeConversation.ts';
import type {Message} from '../../../src/data/templates/template.ts';
import {resolveTemplate} from '../../../src/data/templates/templateRegistry.ts';
import goldens from './fixtures/familyTemplates.json';
import {llamaTokenizer, withTokens} from './llamaTokenizer.ts';

/*
 * Compares the templates of model families with LLaMA-Factory; fixtures/makeFamilyTemplates.py made the numbers.
 */

interface Case {
  template: string;
  conversation: keyof typeof goldens.conversations;
  enable_thinking?: boolean;
  preserve_thinking?: boolean;
  mask_history?: boolean;
}

let llama: Tokenizer;
beforeAll(async () => {
  llama = await llamaTokenizer();
});

const extended = new Map<string, Tokenizer>();

/** Returns Llama's tokenizer with more tokens; making one takes seconds. */
function tokenizerWith(added: string[]): Tokenizer {
  if (added.length === 0) return llama;
  const key = added.join();
  if (!extended.has(key)) extended.set(key, withTokens(llama, added));
  return extended.get(key) as Tokenizer;
}

test.each(goldens.goldens.map((golden) => [JSON.stringify(golden.case), golden] as const))(
  '%s',
  (_, golden) => {
    const given = golden.case as Case;
    const tokenizer = tokenizerWith(golden.added);
    const {messages, system, tools} = goldens.conversations[given.conversation];
    const turns = messages as Message[];
    const conversation = {
      prompt: turns.slice(0, -1),
      response: turns.at(-1),
      system,
      tools,
      source: 'golden',
    };
    const template = resolveTemplate(given.template, tokenizer, {
      enableThinking: given.enable_thinking,
      preserveThinking: given.preserve_thinking,
    });
    const settings = {
      template,
      cutoffLength: 2048,
      trainOnPrompt: false,
      maskHistory: given.mask_history ?? false,
      packing: false,
    };
    const trained = encodeConversation(conversation, tokenizer, {...settings, task: 'sft'});
    expect(trained).toEqual({inputIds: golden.inputIds, labels: golden.labels});
    const prompt = encodeConversation(conversation, tokenizer, {...settings, task: 'prompt'});
    expect(prompt).toEqual({inputIds: golden.promptIds, labels: golden.answerIds});
  },
);

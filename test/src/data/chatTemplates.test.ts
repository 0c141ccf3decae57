import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {type ChatMessage, Tokenizer} from '../../../models/tokenizer.ts';
import {chatTemplateOf} from '../../../src/data/templates/chatTemplateOf.ts';
import {encodePrompt} from '../../../src/data/templates/encodeTurns.ts';
import type {TemplateArgs} from '../../../src/data/templates/template.ts';
import {
  getTemplate,
  registerTemplate,
  resolveTemplate,
} from '../../../src/data/templates/templateRegistry.ts';
import {useTemplate} from '../../../src/tools/recipes/useTemplate.ts';

interface Golden {
  added: string[];
  chats: ChatMessage[][];
  templates: Record<string, TemplateArgs>;
  cases: {
    template: string;
    /** Changes of tokenizer_config.json; null removes a key. */
    config: Record<string, string | null>;
    defaultSystem: string | null;
    chatTemplate: string;
    texts: string[];
    modelfile: string;
    stopIds: number[];
    eos: string;
    pad: string;
  }[];
}

const golden: Golden = JSON.parse(readFileSync(join(__dirname, 'fixtures/chatTemplates.json'), 'utf8'));
const MODEL = join(__dirname, '../../../examples/quickstart/model');
let files: Tokenizer['files'];

beforeAll(async () => {
  ({files} = await Tokenizer.fromFolder(MODEL));
  for (const [name, args] of Object.entries(golden.templates)) registerTemplate(name, args);
});

/** Returns the quickstart's tokenizer with the changes of the fixture's script. */
function tokenizerOf(changes: Golden['cases'][number]['config']): Tokenizer {
  const tokens = files.tokenizer.added_tokens as {id: number}[];
  const first = Math.max(...tokens.map(({id}) => id)) + 1;
  const added = golden.added.map((content, i) => ({...tokens[0], id: first + i, content, special: true}));
  const config = {...files.config, chat_template: null, ...changes};
  return new Tokenizer({tokenizer: {...files.tokenizer, added_tokens: [...tokens, ...added]}, config});
}

const modelWith = (tokenizer: Tokenizer) =>
  ({tokenizer, generationConfig: {}, config: {maxPositionEmbeddings: 131072}}) as Parameters<
    typeof useTemplate
  >[0];

/** Sorts end tokens, which are an unordered set in Python. */
const sortedStops = (modelfile: string) => {
  const lines = modelfile.split('\n').slice(1);
  return [
    lines.filter((line) => !line.startsWith('PARAMETER stop')),
    lines.filter((line) => line.startsWith('PARAMETER stop')).sort(),
  ];
};

test.each(golden.cases)('$template, $config, $defaultSystem: as LLaMA-Factory', (expected) => {
  const {template, defaultSystem, texts} = expected;
  const model = modelWith(tokenizerOf(expected.config));
  const modelfile = useTemplate(model, {template, defaultSystem: defaultSystem ?? undefined});
  const {config} = model.tokenizer!.files;
  expect(config.chat_template).toBe(expected.chatTemplate);
  expect([config.eos_token, config.pad_token]).toEqual([expected.eos, expected.pad]);
  expect(
    golden.chats.map((chat) => model.tokenizer!.applyChatTemplate(chat, {addGenerationPrompt: true})),
  ).toEqual(texts);
  expect(sortedStops(modelfile!)).toEqual(sortedStops(expected.modelfile));
  expect([model.generationConfig.eosTokenId].flat().sort()).toEqual(expected.stopIds);
  expect(model.config.eosTokenId).toBe(model.generationConfig.eosTokenId);
});

test.each([
  [512, 512],
  [4096, 4096],
  [131072, 4096],
])('a model of %i tokens has a context of %i in Ollama', (maxPositionEmbeddings, context) => {
  const model = {...modelWith(tokenizerOf({})), config: {maxPositionEmbeddings}};
  const modelfile = useTemplate(model as Parameters<typeof useTemplate>[0], {template: 'llama3'});
  expect(modelfile).toMatch(new RegExp(`^PARAMETER num_ctx ${context}$`, 'm'));
});

test('a chat is written with the tokens of its training', () => {
  for (const name of ['llama3', 'chatml', 'alpaca', ...Object.keys(golden.templates)]) {
    const model = modelWith(tokenizerOf({eos_token: '<|end_of_text|>'}));
    const trained = encodePrompt(resolveTemplate(name, model.tokenizer!), model.tokenizer!, [
      {role: 'user', content: 'One'},
      {role: 'assistant', content: 'two'},
      {role: 'user', content: 'three'},
    ]);
    useTemplate(model, {template: name});
    const chat = ['One', 'two', 'three'].map((content, i) => ({
      role: i % 2 === 0 ? 'user' : 'assistant',
      content,
    }));
    expect(model.tokenizer!.decode(model.tokenizer!.encodeChat(chat))).toBe(model.tokenizer!.decode(trained));
  }
});

test('the model keeps its own end tokens, and backslashes stay backslashes', () => {
  const model = modelWith(tokenizerOf({eos_token: '<|end_of_text|>'}));
  model.generationConfig = {eosTokenId: 2043, topP: 0.5};
  useTemplate(model, {template: 'llama3', defaultSystem: 'a \\n b'});
  expect(model.generationConfig).toEqual({eosTokenId: [2046, 2048, 2043], topP: 0.5});
  const [chat] = golden.chats;
  expect(model.tokenizer!.applyChatTemplate(chat)).toContain('a \\n b');
});

test('a token by name is written as its text', () => {
  const template = {...getTemplate('chatml'), prefix: [{token: '<|user|>'}]};
  expect(chatTemplateOf(template, {})).toMatch(/^\{\{ '<\|user\|>' \}\}/);
});

test("without a template, or with the model's own, nothing changes", () => {
  for (const template of [undefined, 'model']) {
    const model = modelWith(tokenizerOf({}));
    const {tokenizer} = model;
    expect(useTemplate(model, {template})).toBeUndefined();
    expect(model.tokenizer).toBe(tokenizer);
    expect(model.generationConfig).toEqual({});
  }
});

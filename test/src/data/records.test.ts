import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {setWarningHandler} from '../../../quant/warn.ts';
import {loadDataset} from '../../../src/data/loadDataset.ts';
import {RecordDataset, type Records} from '../../../src/data/records/recordDataset.ts';
import type {RecordOptions} from '../../../src/data/records/recordEncoder.ts';
import type {TrainingRecord} from '../../../src/data/records/trainingRecord.ts';
import {thrownBy} from '../../quant/safetensors/thrownBy.ts';
import goldens from './fixtures/goldens.json';
import {llamaTokenizer} from './llamaTokenizer.ts';

const DATE = '26 Jul 2024';

let tokenizer: Tokenizer;
let folder: string;
let before: (message: string) => void;

beforeAll(async () => {
  tokenizer = await llamaTokenizer();
  folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-records-'));
  before = setWarningHandler(() => {});
});
afterAll(() => {
  setWarningHandler(before);
  rmSync(folder, {recursive: true});
});

const made = (records: Records, options: RecordOptions = {}, by: Tokenizer | undefined = tokenizer) =>
  RecordDataset.fromRecords('dataset', records, by, {dateString: DATE, ...options});

/** What a recipe reads from a file of the same records. */
async function fromFile(records: unknown[], info: object, options: object) {
  writeFileSync(join(folder, 'x.json'), JSON.stringify(records));
  const datasetDir = folder;
  writeFileSync(join(folder, 'dataset_info.json'), JSON.stringify({x: {...info, file_name: 'x.json'}}));
  const examples = await loadDataset({
    dataset: 'x',
    datasetDir,
    tokenizer,
    dateString: DATE,
    streaming: false,
    ...options,
  });
  return examples.map(({inputIds, labels = inputIds}) => ({inputIds, labels}));
}

/** The goldens' records that a recipe does not leave out. */
const {alpaca, sharegpt, messages, openai} = goldens.records;
const usable: Record<string, {records: unknown[]; info: object}> = {
  alpaca: {...alpaca, records: alpaca.records.filter(({output}) => output.trim() !== '')},
  sharegpt: {...sharegpt, records: sharegpt.records.slice(0, 1)},
  calls: {...sharegpt, records: sharegpt.records.slice(1, 2)},
  messages,
  openai,
};
const OWN: RecordOptions[] = [{}, {cutoffLength: 24, maskHistory: true}];
const NAMED: RecordOptions[] = [
  {template: 'llama3'},
  {template: 'alpaca', defaultSystem: 'Be kind.'},
  {template: 'llama3', cutoffLength: 40},
  {template: 'llama3', trainOnPrompt: true},
];

describe.each<[string, RecordOptions[]]>([
  ['alpaca', [...OWN, ...NAMED]],
  ['sharegpt', [...OWN, ...NAMED]],
  ['calls', NAMED], // for which the tokenizer's own template has no form
  ['messages', [...OWN, ...NAMED]],
  ['openai', NAMED],
])('records of %s', (name, options) => {
  test.each(options)('are the examples that a recipe makes, with %j', async (options) => {
    const {records, info} = usable[name];
    const expected = await fromFile(records, info, options);
    expect(expected).toHaveLength(records.length);
    expect((await made(records as TrainingRecord[], options)).examples).toEqual(expected);
  });
});

test.each([{}, {template: 'llama3', cutoffLength: 16}])(
  'texts are the examples of plain text, with %j',
  async (options) => {
    const records = goldens.records.texts.records.filter(({text}) => text !== '');
    const info = goldens.records.texts.info;
    const expected = await fromFile(records, info, {...options, stage: 'pt', packing: false});
    expect((await made(records, options)).examples).toEqual(expected);
  },
);

test('a prompt and its completion are a question and its answer, end included', async () => {
  const messages = [
    {role: 'user', content: 'What is red?'},
    {role: 'assistant', content: 'A colour.'},
  ];
  const {examples} = await made([
    {prompt: 'What is red?', completion: 'A colour.'},
    {messages},
    {instruction: 'What is red?', output: 'A colour.'},
  ]);
  const [{inputIds, labels = []}] = examples;
  expect(inputIds).toEqual(tokenizer.encodeChat(messages, {dateString: DATE}));
  expect(tokenizer.decode(labels.filter((label) => label !== -100))).toBe('A colour.<|eot_id|>');
  expect(examples[1]).toEqual(examples[0]);
  expect(examples[2]).toEqual(examples[0]);
});

test('iterators and examples of ids, in order', async () => {
  const ids = {inputIds: [1, 2, 3]};
  async function* records() {
    yield {text: 'One.'};
    yield ids;
    yield {prompt: 'a', completion: 'b'};
  }
  const dataset = await made(records());
  expect(dataset).toHaveLength(3);
  expect([...dataset]).toEqual(dataset.examples);
  expect(dataset.examples[1]).toBe(ids);
});

test('a preview marks what is learned', async () => {
  const dataset = await made(
    [
      {
        messages: [
          {role: 'user', content: 'a'},
          {role: 'assistant', content: 'b'},
          {role: 'user', content: 'c'},
          {role: 'assistant', content: 'd e'},
        ],
      },
      {text: 'Plain.'},
    ],
    {template: 'chatml'},
  );
  const lines: string[] = [];
  dataset.preview(undefined, (text) => lines.push(text));
  dataset.preview(1, (text) => lines.push(text));
  const end = '<|im_end|>\n';
  expect(lines[0]).toBe(
    `<|im_start|>user\na${end}<|im_start|>assistant\n⟦b${end}⟧` +
      `<|im_start|>user\nc${end}<|im_start|>assistant\n⟦d e${end}⟧`,
  );
  expect(lines[1]).toMatch(/^\S+⟦.*<\|.*\|>⟧$/); // nothing predicts the first token
  expect((await thrownBy(() => dataset.preview(2))).message).toBe(
    'preview index: expected one from 0 to 1, got 2',
  );
});

describe('is refused by the index', () => {
  const good = {prompt: 'a', completion: 'b'};
  const user = {role: 'user', content: 'x'};
  test.each<[string, unknown, string]>([
    [
      'unknown keys',
      {question: 'a', answer: 'b'},
      `expected the keys of one of {prompt, completion}, {messages}, `,
    ],
    ['a missing answer', {prompt: 'a'}, 'got the keys ["prompt"]'],
    ['keys of two kinds', {...good, text: 'c'}, 'Keep the keys of one kind only'],
    ['no object', 'text', 'got "text"'],
    ['an empty answer', {prompt: 'a', completion: ' '}, 'expected an answer to learn, got an empty one'],
    ['an answer that is null', {instruction: 'a', output: null}, 'Look at its instruction and output'],
    ['an empty text', {text: ''}, 'expected a text to learn, got an empty one'],
    [
      'an answer that is no text',
      {prompt: 'a', completion: 5},
      "column 'completion' (response): expected text, got 5",
    ],
    ['no answer at the end', {messages: [user]}, "expected an answer at the end, got 'user'"],
    ['turns that do not alternate', {messages: [user, user]}, "in turn 1, got 'user'"],
    ['no turns', {messages: []}, 'expected turns, got none'],
    ['an empty turn', {messages: [user, {role: 'assistant', content: ''}]}, 'Look at its messages'],
  ])('%s', async (_, record, message) => {
    const error = await thrownBy(() => made([good, record] as never));
    expect(error).toMatchObject({code: 'INVALID_ARGUMENT', message: expect.stringContaining(message)});
    expect(error.message).toMatch(/^dataset record 1\b/);
  });
});

describe('is refused', () => {
  test('without a tokenizer', async () => {
    const records = RecordDataset.fromRecords('fitDataset', [{text: 'x'}], undefined);
    await expect(records).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('expected a model with a tokenizer'),
    });
  });

  test('without a chat template, but for plain text', async () => {
    const {chat_template: _, ...config} = tokenizer.files.config;
    const Plain = tokenizer.constructor as typeof Tokenizer;
    const plain = new Plain({...tokenizer.files, config, chatTemplate: undefined});
    expect(plain.hasChatTemplate).toBe(false);
    await expect(made([{text: 'x'}, {prompt: 'a', completion: 'b'}], {}, plain)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(
        /^dataset record 1: expected a tokenizer with a chat template, .*llama3/,
      ),
    });
    expect((await made([{text: 'x'}], {}, plain)).examples).toEqual((await made([{text: 'x'}])).examples);
    expect(await made([{prompt: 'a', completion: 'b'}], {template: 'llama3'}, plain)).toHaveLength(1);
  });

  test('nothing to learn from', async () => {
    expect((await thrownBy(() => made([]))).message).toBe(
      'dataset: expected at least one example, got an empty dataset',
    );
    expect((await thrownBy(() => made(5 as never))).message).toContain(
      'expected a list or an iterator of records',
    );
    expect((await thrownBy(() => made([{text: 'x'}], {cutoffLength: 0}))).message).toContain('cutoffLength');
  });
});

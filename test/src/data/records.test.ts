import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {setWarningHandler} from '../../../quant/warn.ts';
import {loadDataset, loadPrompts} from '../../../src/data/loadDataset.ts';
import {RecordDataset, type Records} from '../../../src/data/records/recordDataset.ts';
import {RecordEncoder, type RecordOptions} from '../../../src/data/records/recordEncoder.ts';
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

/** The weather of a city, as TRL and OpenAI write tools, calls and results. */
const weather = (args: unknown) => ({
  messages: [
    {role: 'user', content: 'How warm is Oslo?'},
    {
      role: 'assistant',
      tool_calls: [{id: 'c1', type: 'function', function: {name: 'get_weather', arguments: args}}],
    },
    {role: 'tool', name: 'get_weather', tool_call_id: 'c1', content: '7'},
    {role: 'assistant', content: 'It is 7 degrees.'},
  ],
  tools: [
    {
      type: 'function',
      function: {
        name: 'get_weather',
        description: 'The weather of a city',
        parameters: {type: 'object', properties: {city: {type: 'string'}}, required: ['city']},
      },
    },
  ],
});

/** Writes tools and calls in the form of Llama 3.2's chat template. */
const TOOL_TEMPLATE =
  '{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n' +
  '{% if loop.first and tools %}{{ tools | tojson }}\n{% endif %}' +
  '{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}' +
  '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}<|eot_id|>' +
  '{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}';

describe('messages with tools', () => {
  const {info} = messages;
  const openaiInfo = {...info, formatting: 'openai', columns: {messages: 'messages', tools: 'tools'}};
  const withTools = () => tokenizer.withConfig({chat_template: TOOL_TEMPLATE});

  test.each([
    {template: 'llama3'},
    {template: 'alpaca'},
    {template: 'llama3', cutoffLength: 60},
    {tokenizer: withTools},
  ])('are the examples that a recipe makes, with %j', async ({tokenizer: by, ...options}) => {
    const record = weather({city: 'Oslo'});
    const expected = await fromFile([record], openaiInfo, {...options, ...(by && {tokenizer: by()})});
    expect((await made([record], options, by?.())).examples).toEqual(expected);
  });

  test('are rendered by the chat template as a whole, calls learned, results not', async () => {
    const {messages, tools} = weather({city: 'Oslo'});
    const {examples} = await made([{messages, tools: JSON.stringify(tools)}], {}, withTools());
    const [{inputIds, labels = []}] = examples;
    expect(inputIds).toEqual(withTools().encodeChat(messages, {tools, dateString: DATE}));
    const learned = tokenizer.decode(labels.filter((label) => label !== -100));
    expect(learned).toBe(
      '{"name": "get_weather", "parameters": {"city": "Oslo"}}<|eot_id|>It is 7 degrees.<|eot_id|>',
    );
  });

  test("may have arguments in JSON text, as in OpenAI's API", async () => {
    const records = [weather('{"city": "Oslo"}'), weather({city: 'Oslo'})];
    const [asText, asObject] = (await made(records, {template: 'llama3'})).examples;
    expect(asText).toEqual(asObject);
  });

  test('are refused by a chat template that leaves out the tools or the calls', async () => {
    const {messages, tools} = weather({city: 'Oslo'});
    const left = (what: string) => ({
      code: 'UNSUPPORTED',
      message: expect.stringContaining(`a chat template that writes ${what}, got one that leaves them out`),
    });
    expect(await thrownBy(() => made([{messages, tools}]))).toMatchObject(left('tools'));
    expect(await thrownBy(() => made([{messages}]))).toMatchObject(left('the calls of tools'));
  });
});

describe("TRL's prompt and completion as messages", () => {
  const turns = [
    {role: 'system', content: 'Be brief.'},
    {role: 'user', content: 'Name a prime.'},
    {role: 'assistant', content: 'Seven.'},
    {role: 'user', content: 'Another, and say why it is a prime number.'},
    {role: 'assistant', content: 'Eleven, as nothing but one and itself divides it.'},
    {role: 'user', content: 'Thanks.'},
    {role: 'assistant', content: 'You are welcome.'},
  ];
  const split = (at: number) => ({prompt: turns.slice(0, at), completion: turns.slice(at)});

  test.each([...OWN, ...NAMED].map((options) => ({...options, trainOnPrompt: undefined})))(
    'learn the last answer as a recipe with mask_history, with %j',
    async (options) => {
      const masked = {...options, maskHistory: true};
      const expected = await fromFile([{messages: turns}], messages.info, masked);
      expect((await made([split(6)], {...options, maskHistory: undefined})).examples).toEqual(expected);
    },
  );

  test('learn all answers of a completion of several turns, and those of the prompt only on demand', async () => {
    const [whole] = await fromFile([{messages: turns}], messages.info, {});
    const [{inputIds, labels}] = (await made([split(4)])).examples;
    expect(inputIds).toEqual(whole.inputIds);
    const firstAnswer = whole.labels.findIndex((label) => label !== -100);
    const secondAnswer = whole.labels.findIndex(
      (label, t) => t > whole.labels.indexOf(-100, firstAnswer) && label !== -100,
    );
    expect(labels).toEqual(whole.labels.map((label, t) => (t < secondAnswer ? -100 : label)));
    const [all] = (await made([split(4)], {trainOnPrompt: true})).examples;
    expect(all.labels).toEqual(whole.inputIds);
  });

  test('may be text on one side', async () => {
    const [question, answer] = [turns[1], turns[2]];
    const {examples} = await made([
      {prompt: question.content, completion: answer.content},
      {prompt: [question], completion: answer.content},
      {prompt: question.content, completion: [answer]},
      {prompt: [question], completion: [answer], tools: []},
    ]);
    for (const example of examples) expect(example).toEqual(examples[0]);
  });
});

test.each<[string, RecordOptions]>([
  ['alpaca', {}],
  ['alpaca', {template: 'llama3', cutoffLength: 40}],
  ['sharegpt', {cutoffLength: 64}],
  ['openai', {template: 'llama3'}],
  ['messages', {}],
])('records of %s ask the prompts that a recipe predicts, with %j', async (name, options) => {
  const {info} = usable[name];
  const {records} = goldens.records[name as keyof typeof goldens.records];
  const askable = name === 'sharegpt' ? records.slice(0, 1) : records;
  await fromFile(usable[name].records, info, options);
  writeFileSync(join(folder, 'x.json'), JSON.stringify(askable));
  const expected = await loadPrompts({
    dataset: 'x',
    datasetDir: folder,
    tokenizer,
    dateString: DATE,
    ...options,
  });
  const encoder = new RecordEncoder('predictDataset', tokenizer, {dateString: DATE, ...options});
  expect(askable.map((record, i) => encoder.encodePrompt(record as never, i))).toEqual(expected);
});

test('a dataset asks its prompts, whose ids may come as examples', async () => {
  const records = [alpaca.records[2], {prompt: 'a', completion: 'b'}] as TrainingRecord[];
  const dataset = await made(records);
  const prompts = dataset.prompts();
  expect(prompts[1]).toMatchObject({
    label: 'b',
    prompt: expect.stringMatching(/assistant<\|end_header_id\|>\n\n$/),
  });
  expect((await made(dataset)).prompts()).toEqual(prompts);
  expect((await made(records, {packing: true})).prompts()).toEqual(prompts);
  expect(dataset.stopIds).toEqual([tokenizer.tokenToId('<|eot_id|>')]);
});

describe('packing', () => {
  const texts = goldens.records.texts.records.filter(({text}) => text !== '');
  const many = Array.from({length: 400}, (_, i) => texts[i % texts.length]);
  const {records: answers, info} = usable.alpaca;

  test.each([{cutoffLength: 33}, {template: 'llama3', cutoffLength: 100}])(
    'texts fill the rows that a recipe fills, with %j',
    async (options) => {
      const args = {...options, stage: 'pt', packing: true};
      const expected = await fromFile(many, goldens.records.texts.info, args);
      const {examples} = await made(many, {...options, packing: true});
      expect(examples.map(({inputIds, labels = inputIds}) => ({inputIds, labels}))).toEqual(expected);
      expect(expected[0].inputIds).toHaveLength(options.cutoffLength - 1);
    },
  );

  test('answers share the rows of a recipe', async () => {
    const options = {template: 'llama3', packing: true, cutoffLength: 200};
    await fromFile(answers, info, options);
    const expected = await loadDataset({
      dataset: 'x',
      datasetDir: folder,
      tokenizer,
      dateString: DATE,
      ...options,
    });
    const dataset = await made(answers as TrainingRecord[], options);
    expect(dataset.examples).toEqual(expected);
    const ids = {inputIds: [1, 2, 3]};
    const mixed = await made([ids, ...many, ...(answers as TrainingRecord[])], options);
    const onlyTexts = await made(many, options);
    expect(mixed.examples).toEqual([...onlyTexts.examples, ...expected, ids]);
    const lines: string[] = [];
    dataset.preview(dataset.length - 1, (text) => lines.push(text));
    expect(lines[0]).toMatch(/⟦.*⟧.*⟦.*⟧/s);
  });

  test('texts too short for a row are refused', async () => {
    const {message} = await thrownBy(() => made([{text: 'One.'}], {packing: true}));
    expect(message).toBe(
      'dataset packing: expected texts for at least one row of 2047 tokens, got fewer. Lower cutoffLength, or leave packing out.',
    );
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
    [
      'a completion without an answer',
      {prompt: [user], completion: []},
      "expected an answer at the end, got 'user'",
    ],
    [
      'a completion whose only answers are in the prompt',
      {prompt: [user, {role: 'assistant', content: 'y'}], completion: []},
      'expected an answer to learn, got an empty one',
    ],
    [
      'content in parts',
      {messages: [{role: 'user', content: [{type: 'image'}]}]},
      "expected text under 'content'",
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

describe('a key that would change what is learned is refused by the record and its name', () => {
  const good = {prompt: 'a', completion: 'b'};
  const turns = (more: object) => ({
    messages: [
      {role: 'user', content: 'x'},
      {role: 'assistant', content: 'y', ...more},
    ],
  });
  const read = 'The models read text only';
  test.each<[string, object, string]>([
    ['images', {...good, images: ['a.png']}, read],
    ['image', {...turns({}), image: {bytes: 'x'}}, read],
    ['videos', {instruction: 'a', output: 'b', videos: ['a.mp4']}, read],
    ['audio', {text: 'a', audio: 'a.wav'}, read],
    ['rejected', {...good, rejected: 'c'}, 'are preferences'],
    ['label', {...turns({}), label: false}, 'have a verdict'],
    ['label', {prompt: 'a', completion: 'b', label: 0}, 'Write a verdict as true or false'],
    ['kto_tag', {...good, kto_tag: false}, 'have a verdict'],
    ['assistant_masks', {...turns({}), assistant_masks: [1]}, 'trainOnPrompt'],
    ['chat_template_kwargs', {...turns({}), chat_template_kwargs: {a: 1}}, 'Leave out the key'],
    [
      'tools',
      {text: 'a', tools: [{}]},
      'Only records of {prompt, completion}, {messages}, {instruction, output}',
    ],
    ['history', {...good, history: [['a', 'b']]}, 'Only records of {instruction, output} may have it'],
    ['messages turn 1 images', turns({images: ['a.png']}), read],
    ['messages turn 1 weight', turns({weight: 0}), 'maskHistory'],
    ['messages turn 1 function_call', turns({function_call: {name: 'f'}}), 'tool_calls'],
    ['messages turn 1 thinking', turns({thinking: 'hm'}), 'Write thoughts into the content'],
    ['messages turn 1 content beside tool_calls', turns({tool_calls: [{}]}), 'either text or calls'],
  ])('%s', async (key, record, message) => {
    const error = await thrownBy(() => made([good, record] as never));
    expect(error).toMatchObject({code: 'UNSUPPORTED', message: expect.stringContaining(message)});
    expect(error.message.startsWith(`dataset record 1 ${key}: expected none, got `)).toBe(true);
  });

  test('but not when it is empty, or says nothing about what is learned', async () => {
    const more = {images: [], tools: null, label: 'positive', chat_template_kwargs: {}, id: 7, source: 'web'};
    const {examples} = await made([{...good, ...more}, good] as never);
    expect(examples[0]).toEqual(examples[1]);
    expect(await made([turns({weight: 1, name: 'me', tool_calls: null})] as never)).toHaveLength(1);
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

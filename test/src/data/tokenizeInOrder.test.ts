import {Tokenizer} from '../../../models/tokenizer.ts';
import {setWarningHandler} from '../../../quant/warn.ts';
import {type EncodeSettings, encodeConversation} from '../../../src/data/preprocessing/encodeConversation.ts';
import {tokenizeInOrder} from '../../../src/data/preprocessing/tokenizeInOrder.ts';
import type {Conversation} from '../../../src/data/templates/conversation.ts';
import {getTemplate} from '../../../src/data/templates/templateRegistry.ts';

/*
 * Worker threads, started from the sources. test/packaging checks that they start from the built package.
 */

// jest runs this file in its own context.
jest.mock('node:os', () => ({...jest.requireActual('node:os'), availableParallelism: () => 2}));

const CHARACTERS = Array.from({length: 95}, (_, i) => String.fromCharCode(32 + i));
const files = {
  tokenizer: {
    model: {type: 'BPE', vocab: Object.fromEntries(CHARACTERS.map((token, id) => [token, id])), merges: []},
    added_tokens: [
      {id: 95, content: '<s>', special: true},
      {id: 96, content: '</s>', special: true},
    ],
  },
  config: {bos_token: '<s>', eos_token: '</s>'},
};
const tokenizer = new Tokenizer(files);
const settings: EncodeSettings = {
  task: 'sft',
  template: {kind: 'slots', template: getTemplate('default'), dateString: ''},
  cutoffLength: 100,
  trainOnPrompt: false,
  maskHistory: false,
  packing: false,
};

const conversation = (i: number): Conversation => ({
  prompt: [{role: 'user', content: `question ${i} ${'?'.repeat(i % 50)}`}],
  response: {role: 'assistant', content: `answer ${i}`},
  source: `x.json record ${i}`,
});
const lists = Array.from({length: 9}, (_, list) =>
  Array.from({length: list === 4 ? 1 : 20}, (_, i) => conversation(list * 20 + i)),
);

let warnings: string[];
let before: (message: string) => void;

beforeEach(() => {
  warnings = [];
  before = setWarningHandler((message) => warnings.push(message));
});

afterEach(() => {
  setWarningHandler(before);
});

async function tokenized(workers: number, given = lists, how = settings, with_ = tokenizer) {
  const result = [];
  for await (const {conversations, encoded} of tokenizeInOrder(given, with_, how, workers)) {
    expect(encoded).toHaveLength(conversations.length);
    result.push(...encoded);
  }
  return result;
}

test.each([0, 1, 2, 8])('%i workers: the same ids in the same order', async (workers) => {
  const expected = lists.flat().map((each) => encodeConversation(each, tokenizer, settings));
  expect(await tokenized(workers)).toEqual(expected);
  expect(warnings).toEqual([]);
});

test('a worker passes on a mistake in the data unchanged', async () => {
  const wrong: Conversation = {
    prompt: [{role: 'user', content: 'a'}],
    response: {role: 'function', content: 'no call'},
    source: 'x.json record 7',
  };
  await expect(tokenized(2, [lists[0], [wrong], lists[1]])).rejects.toMatchObject({
    code: 'CORRUPT_FILE',
    message: 'x.json record 7: function call: expected JSON, got no call',
  });
});

test('the main thread does the work when no worker can', async () => {
  // Its files are good for the tokenizer that is here, but no worker can make one of them.
  const broken = Object.assign(Object.create(Tokenizer.prototype), tokenizer, {
    files: {config: {}},
  }) as Tokenizer;
  expect(await tokenized(2, lists, settings, broken)).toEqual(await tokenized(0));
  expect(warnings).toHaveLength(2);
  expect(warnings[0]).toMatch(/^tokenizing: a worker thread failed \(.*\), so 1 continue without it$/);
  expect(warnings[1]).toMatch(
    /^tokenizing: a worker thread failed \(.*\), so the main thread does the work$/,
  );
});

test('leaving the loop ends the workers', async () => {
  for await (const {encoded} of tokenizeInOrder(lists, tokenizer, settings, 2)) {
    expect(encoded).toHaveLength(20);
    break;
  }
  expect(warnings).toEqual([]);
});

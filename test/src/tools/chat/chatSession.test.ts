import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {Llama, useBackend} from '../../../../src/index.ts';
import {ChatSession} from '../../../../src/tools/chat/index.ts';
import {errorOf} from '../../../models/tinyLlama.ts';

const FOLDER = join(__dirname, '../../../../examples/quickstart/model');
const options = {maxNewTokens: 4};
let model: Llama;

beforeAll(async () => {
  await useBackend('wasm');
  model = await Llama.fromPretrained(FOLDER);
});
afterAll(() => {
  model.dispose();
});

async function said(session: ChatSession, text: string): Promise<string> {
  const pieces: string[] = [];
  for await (const piece of session.send(text)) pieces.push(piece);
  return pieces.join('');
}

test('answers as chat does with the whole conversation', async () => {
  const session = new ChatSession(model, {...options, system: 'Be brief.'});
  const system = {role: 'system', content: 'Be brief.'};
  const first = {role: 'user', content: 'Who pays?'};
  const answer = await said(session, 'Who pays?');
  expect(answer).toBe(await model.chat([system, first], options));
  const turns = [first, {role: 'assistant', content: answer}, {role: 'user', content: 'Until when?'}];
  const second = await said(session, 'Until when?');
  expect(second).toBe(await model.chat([system, ...turns], options));
  expect(session.history).toEqual([...turns, {role: 'assistant', content: second}]);
  session.reset();
  session.system = undefined;
  expect(await said(session, 'Who pays?')).toBe(await model.chat([first], options));
});

test('an answer that is stopped stays in the history, and keeps no tensors', async () => {
  const session = new ChatSession(model, {maxNewTokens: 50});
  const before = tf.memory().numTensors;
  let answer = '';
  for await (const piece of session.send('Who pays?')) {
    answer = piece;
    break;
  }
  expect(session.history).toEqual([
    {role: 'user', content: 'Who pays?'},
    {role: 'assistant', content: answer},
  ]);
  expect(tf.memory().numTensors).toBe(before);
});

test('the oldest turns are left out if they do not all fit', async () => {
  const session = new ChatSession(model, options);
  const long = 'The Secretary may award grants. '.repeat(14);
  for (const _ of [1, 2, 3]) await said(session, long);
  expect(session.forgottenTurns).toBe(0);
  await said(session, `${long}${long}`);
  expect(session.forgottenTurns).toBeGreaterThan(0);
  expect(session.history).toHaveLength(8);
});

test('a message that cannot be answered throws an error, and is not in the history', async () => {
  const session = new ChatSession(model, options);
  await said(session, 'Who pays?');
  const {code, message} = await errorOf(() => said(session, 'bill '.repeat(900)));
  expect(code).toBe('INVALID_ARGUMENT');
  expect(message).toContain('within 512 tokens');
  expect(session.history).toHaveLength(2);
});

test('a model without a chat template needs an encoder', async () => {
  const bare = Llama.fromConfig({...model.config});
  expect((await errorOf(() => new ChatSession(bare))).message).toContain('set model.tokenizer');
  bare.tokenizer = model.tokenizer;
  const session = new ChatSession(bare, {
    ...options,
    encodeChat: (messages) => messages.map((_, index) => index + 1),
  });
  expect((await said(session, 'x')).length).toBeGreaterThan(0);
  bare.dispose();
});

import {join} from 'node:path';
import {PassThrough} from 'node:stream';
import * as tf from '@tensorflow/tfjs';
import type {LlamaForCausalLM} from '../../../../models/llama/llama.ts';
import {Llama, useBackend} from '../../../../src/index.ts';
import {ChatSession} from '../../../../src/tools/chat/index.ts';
import {chatLoop} from '../../../../src/tools/cli/chatLoop.ts';
import {adapterNameOf} from '../../../../src/tools/recipes/openForChat.ts';
import {inFolder, stirAdapter} from '../../../models/tinyLlama.ts';

const FOLDER = join(__dirname, '../../../../examples/quickstart/model');
let model: Llama;

beforeAll(async () => {
  await useBackend('wasm');
  model = await Llama.fromPretrained(FOLDER);
});
afterAll(() => {
  model.dispose();
});

/** Returns the output of a chat without a terminal for these lines, in blocks. */
async function chatOf(lines: string[], session = new ChatSession(model, {maxNewTokens: 4})): Promise<string> {
  const [input, output] = [new PassThrough(), new PassThrough()];
  input.end(`${lines.join('\n')}\n`);
  await chatLoop(model, session, {input, output, isTerminal: false});
  return output.end().read()?.toString() ?? '';
}

const answerTo = (content: string, options = {}) =>
  model.chat([{role: 'user', content}], {maxNewTokens: 4, ...options});

test('answers line by line with the whole conversation', async () => {
  const session = new ChatSession(model, {maxNewTokens: 4});
  const text = await chatOf(['Who pays?', '', 'Until\\', 'when?'], session);
  const [first, , second] = session.history.slice(1).map(({content}) => content);
  expect(text).toBe(`${first}\n\n${second}\n\n`);
  expect(first).toBe(await answerTo('Who pays?'));
  expect(session.history.map(({role}) => role)).toEqual(['user', 'assistant', 'user', 'assistant']);
  expect(session.history[2].content).toBe('Until\nwhen?');
});

test('has the commands system, reset, help and exit, and names the nearest for an unknown one', async () => {
  const session = new ChatSession(model, {maxNewTokens: 4});
  const text = await chatOf(
    [
      '/system',
      '/system Be brief.',
      'Who pays?',
      '/reset',
      '/system none',
      '/hepl',
      '/temperature 0.5',
      '/help',
      '/quit',
      'never said',
    ],
    session,
  );
  expect(session.history).toEqual([]);
  const system = {role: 'system', content: 'Be brief.'};
  const briefly = await model.chat([system, {role: 'user', content: 'Who pays?'}], {maxNewTokens: 4});
  expect(text).toMatch(/^No system message\.\nSystem message: Be brief\.\n/);
  expect(text).toContain(
    `${briefly}\n\nCleared the conversation.\nNo system message.\n/hepl: expected a command`,
  );
  expect(text).toContain('Did you mean help?');
  expect(text).toContain('Set temperature when the chat starts: tfjs-lora chat <model> temperature=<value>.');
  expect(text).toMatch(/^\/adapter \[name \| folder \| none\] +show or choose the adapter/m);
});

test('adapters are loaded, switched and turned off', () =>
  inFolder(async (folder) => {
    const base = await answerTo('Who pays?');
    const path = join(folder, 'my adapter');
    model.applyLoRA({rank: 2, adapterName: 'made'});
    stirAdapter(model as LlamaForCausalLM, 'made');
    await model.saveAdapter(path);
    const adapted = await answerTo('Who pays?');
    expect(adapted).not.toBe(base);
    model.deleteAdapter('made');
    const lines = [
      '/adapter',
      `/adapter ${path}`,
      'Who pays?',
      '/reset',
      '/adapter none',
      'Who pays?',
      '/reset',
    ];
    const text = await chatOf([...lines, '/adapter my-adapter', 'Who pays?', '/adapter', '/adapter other']);
    expect(text).toBe(
      [
        'No adapter is loaded.',
        'Loaded my-adapter. Now using it.',
        `${adapted}\n`,
        'Cleared the conversation.',
        'Now using the base without an adapter.',
        `${base}\n`,
        'Cleared the conversation.',
        'Now using my-adapter.',
        `${adapted}\n`,
        'adapters: my-adapter (active)',
        '/adapter other: expected one of my-adapter, or the folder of an adapter, got neither.\n',
      ].join('\n'),
    );
    model.deleteAdapter('my-adapter');
  }));

test('a message that cannot be answered is reported, and the chat continues', async () => {
  const text = await chatOf(['bill '.repeat(900), 'Who pays?']);
  expect(text).toContain('chat message: expected one that leaves room');
  expect(text.endsWith(`${await answerTo('Who pays?')}\n\n`)).toBe(true);
});

test('in a terminal, Ctrl-C stops an answer, clears the typed text, or ends the chat', async () => {
  const [input, output] = [new PassThrough(), new PassThrough()];
  const session = new ChatSession(model, {maxNewTokens: 400, eosTokenId: 2047});
  const numTensors = tf.memory().numTensors;
  let text = '';
  let interrupts = 0;
  output.on('data', (part: Buffer) => {
    text += part;
    const isAnswering = /Who pays\?\r?\n(?:.*\S.*){1}/s.test(text);
    if (isAnswering && interrupts === 0) {
      interrupts++;
      input.write('\x03');
    }
    if (text.endsWith('> \x1b[3G') && text.includes('(stopped)') && interrupts === 1) {
      interrupts++;
      input.write('half a message\x03\x03'); // clears the text, then ends the chat
    }
  });
  input.write('Who pays?\r');
  await chatLoop(model, session, {input, output, isTerminal: true});
  expect(text).toContain('model. /help shows the commands.');
  expect(text).toContain('(stopped)');
  expect(interrupts).toBe(2);
  const [, answer] = session.history;
  expect(model.tokenizer!.encode(String(answer.content)).length).toBeLessThan(100);
  expect(tf.memory().numTensors).toBe(numTensors);
});

test('adapters are named after their folders', () => {
  expect(adapterNameOf('/saves/sft run.1/', [])).toBe('sft-run-1');
  expect(adapterNameOf('sft', ['sft', 'sft-2'])).toBe('sft-3');
});

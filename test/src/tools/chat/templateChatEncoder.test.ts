import {join} from 'node:path';
import {Tokenizer} from '../../../../models/tokenizer.ts';
import {templateChatEncoder} from '../../../../src/tools/chat/templateChatEncoder.ts';

const FOLDER = join(__dirname, '../../../../examples/quickstart/model');
const turns = [
  {role: 'user', content: 'Who pays?'},
  {role: 'assistant', content: 'The States.'},
  {role: 'user', content: 'Until when?'},
];
const system = {role: 'system', content: 'Be brief.'};
let tokenizer: Tokenizer;

beforeAll(async () => {
  tokenizer = await Tokenizer.fromFolder(FOLDER);
});

test('llama3 writes the same as the chat template of a Llama', () => {
  const encode = templateChatEncoder(tokenizer, 'llama3');
  for (const messages of [turns, turns.slice(0, 1), [system, ...turns]]) {
    expect(encode(messages)).toEqual(tokenizer.encodeChat(messages, {addGenerationPrompt: true}));
  }
});

test("without a name it uses the model's own template, with the recipe's system message by default", () => {
  for (const name of [undefined, 'model', 'llama3']) {
    const encode = templateChatEncoder(tokenizer, name, {defaultSystem: 'Be brief.'});
    const expected = tokenizer.encodeChat([system, ...turns], {addGenerationPrompt: true});
    expect(encode(turns)).toEqual(expected);
    const other = {role: 'system', content: 'Be long.'};
    expect(encode([other, ...turns])).toEqual(
      tokenizer.encodeChat([other, ...turns], {addGenerationPrompt: true}),
    );
  }
});

test('turns that do not alternate and unknown names are refused', () => {
  const encode = templateChatEncoder(tokenizer, 'llama3');
  expect(() => encode(turns.slice(0, 2))).toThrow('end with a user');
  expect(() => encode([turns[1]])).toThrow('chat message 0: expected a user or tool turn');
  expect(() => encode([turns[0], turns[0], turns[0]])).toThrow('chat message 1: expected an assistant turn');
  expect(() => templateChatEncoder(tokenizer, 'llam3')).toThrow('Nearest: llama3');
});

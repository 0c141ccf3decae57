import {exchangeAnswers} from '../../../src/data/preprocessing/exchangeAnswers.ts';
import type {Conversation} from '../../../src/data/templates/conversation.ts';

const conversation = (name: string, fault?: string): Conversation => ({
  prompt: [{role: 'user', content: name}],
  response: {role: 'assistant', content: name},
  source: name,
  ...(fault !== undefined && {fault}),
});

test('every usable conversation gets the answer of the usable one before, the first that of the last', () => {
  const rows = exchangeAnswers([
    conversation('a'),
    conversation('b', 'x'),
    conversation('c'),
    conversation('d', 'x'),
  ]);
  expect(rows.map(({source, response}) => source + response!.content)).toEqual([
    'aa',
    'ac',
    'bb',
    'bb',
    'cc',
    'ca',
    'dd',
    'dd',
  ]);
  expect(exchangeAnswers([conversation('a')]).map(({response}) => response!.content)).toEqual(['a', 'a']);
});

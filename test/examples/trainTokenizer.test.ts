import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import fc from 'fast-check';
import {billRecords} from '../../examples/quickstart/billGenerator.ts';
import {learnBytePairs, SPECIAL_TOKENS, trainTokenizer} from '../../examples/quickstart/trainTokenizer.ts';
import {Tokenizer} from '../../models/tokenizer.ts';

const folder = join(__dirname, '../../examples/quickstart/model');

test('merges the most frequent pair first, and never across a cut', () => {
  const {tokens, merges} = learnBytePairs(
    ['low low low low', 'lower lower', 'newest newest newest newest newest newest'],
    262,
  );
  // w-e occurs eight times; then several pairs do six times, and the first by its letters wins.
  expect(merges.slice(0, 3)).toEqual([
    ['w', 'e'],
    ['e', 'we'],
    ['ewe', 's'],
  ]);
  expect(tokens).toHaveLength(262);
  expect(tokens.slice(256)).toEqual(merges.map(([left, right]) => left + right));
  const spaced = learnBytePairs(['a b a b a b'], 300).tokens.slice(256);
  expect(spaced).toEqual(['Ġb', 'Ġa']);
});

test('the committed files are what the script writes', () => {
  const {tokenizer, config} = trainTokenizer();
  expect(readFileSync(join(folder, 'tokenizer.json'), 'utf8')).toBe(tokenizer);
  expect(readFileSync(join(folder, 'tokenizer_config.json'), 'utf8')).toBe(config);
});

test('any text comes back, and bills take few tokens', async () => {
  const tokenizer = await Tokenizer.fromFolder(folder);
  fc.assert(
    fc.property(fc.string({unit: 'binary', maxLength: 40}), (text) => {
      const isSpecial = SPECIAL_TOKENS.some((token) => text.includes(token));
      fc.pre(!isSpecial && text.isWellFormed());
      expect(tokenizer.decode(tokenizer.encode(text, {addSpecialTokens: false}))).toBe(text);
    }),
  );
  const records = billRecords('heldOut', 100);
  const lengths = records.map(({input}) => tokenizer.encode(input).length).sort((a, b) => a - b);
  expect(lengths[50]).toBeLessThan(150);
  expect(lengths[99]).toBeLessThan(230);
});

test('special tokens, chat template and defaults are Llama 3’s', async () => {
  const tokenizer = await Tokenizer.fromFolder(folder);
  expect(tokenizer.vocabSize).toBe(2048);
  expect(SPECIAL_TOKENS.map((token) => tokenizer.tokenToId(token))).toEqual([
    2042, 2043, 2044, 2045, 2046, 2047,
  ]);
  expect([tokenizer.bosTokenId, tokenizer.eosTokenId, tokenizer.padTokenId]).toEqual([2042, 2046, 2047]);
  expect(tokenizer.encode('Act')[0]).toBe(2042);
  expect(tokenizer.applyChatTemplate([{role: 'user', content: 'Hi'}], {addGenerationPrompt: true})).toBe(
    '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>' +
      '<|start_header_id|>assistant<|end_header_id|>\n\n',
  );
});

import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {Tokenizer} from '../../models/tokenizer.ts';

const root = join(__dirname, '../..');

type Example = {inputIds: number[]; labels: number[]};

/** Function of README.md that makes examples, without its types. */
function exampleOfReadme(tokenizer: Tokenizer): (prompt: string, answer: string) => Example {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const [code] = readme.match(/const example = [\s\S]*?\n};\n/) as RegExpMatchArray;
  const plain = code.replaceAll(': string', '').replaceAll('tokenizer!', 'tokenizer');
  return new Function('model', `${plain}; return example;`)({tokenizer});
}

test("README's example teaches the answer and the token that ends it", async () => {
  const tokenizer = await Tokenizer.fromFolder(join(root, 'examples/quickstart/model'));
  const {inputIds, labels} = exampleOfReadme(tokenizer)('What is red?', 'A colour.');
  const learnt = labels.filter((label) => label !== -100);
  expect(labels).toHaveLength(inputIds.length);
  expect(labels.slice(-learnt.length)).toEqual(inputIds.slice(-learnt.length));
  expect(tokenizer.decode(learnt, {skipSpecialTokens: false})).toBe('A colour.<|eot_id|>');
  const generation = readFileSync(join(root, 'examples/quickstart/model/generation_config.json'), 'utf8');
  expect(learnt.at(-1)).toBe(JSON.parse(generation).eos_token_id); // otherwise answers would not end
  const unlearnt = inputIds.slice(0, -learnt.length);
  expect(tokenizer.decode(unlearnt, {skipSpecialTokens: false})).toContain('What is red?');
});

import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import ts from 'typescript';
import * as library from '../../src/index.ts';

const root = join(__dirname, '../..');
const MODEL = join(root, 'examples/quickstart/model');
const AsyncFunction = (async () => {}).constructor as new (
  ...texts: string[]
) => (...values: unknown[]) => Promise<library.Llama>;

/** README.md's first training example, as a function that returns its model. */
function exampleOfReadme(): (lib: object, log: object, folder: string) => Promise<library.Llama> {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const [, code] = readme.match(/## Fine-tune a Llama\n.*?```ts\n(.*?)```/s) as RegExpMatchArray;
  const body = code
    .replace(/import (\{.*\}) from 'tfjs-lora';/, 'const $1 = lib;')
    .replace("'Llama-3.2-1B-Instruct'", 'folder')
    .replace(/await model\.saveAdapter.*/, '');
  const {outputText} = ts.transpileModule(body, {compilerOptions: {target: ts.ScriptTarget.ES2022}});
  return new AsyncFunction('lib', 'console', 'folder', `${outputText}; return model;`) as never;
}

test("README's example teaches the answer and where it ends", async () => {
  await library.useBackend('wasm');
  const answers: string[] = [];
  const model = await exampleOfReadme()(library, {log: (text: string) => answers.push(text)}, MODEL);
  expect(answers).toEqual(['Ada did.']); // the model stopped by itself, long before maxNewTokens
  model.dispose();
});

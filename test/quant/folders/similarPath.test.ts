import {mkdirSync, writeFileSync} from 'node:fs';
import {homedir} from 'node:os';
import {join} from 'node:path';
import {similarName} from '../../../quant/errors.ts';
import {folderToWrite, openFolder} from '../../../quant/folders/openFolder.ts';
import {didYouMeanPath} from '../../../quant/folders/similarPath.ts';
import {inFolder} from '../../models/tinyLlama.ts';

test('a path that does not exist is answered by the one that is like it', () =>
  inFolder(async (folder) => {
    mkdirSync(join(folder, 'models/Llama-3.2-1B-Instruct'), {recursive: true});
    writeFileSync(join(folder, 'recipe.yaml'), '');
    const meant = (path: string) => didYouMeanPath(join(folder, path)).replace(`${folder}/`, '');
    expect(meant('models/Llama-3.2-1B-Instrcut')).toBe(' Did you mean models/Llama-3.2-1B-Instruct?');
    expect(meant('modles/Llama-3.2-1B')).toBe(' Did you mean models/Llama-3.2-1B-Instruct?');
    expect(meant('recipe.yml')).toBe(' Did you mean recipe.yaml?');
    expect(meant('elsewhere/Llama-3.2-1B-Instruct')).toBe('');
    expect(meant('models/mistral')).toBe('');
    expect(meant('recipe.yaml')).toBe(''); // it exists
    expect(didYouMeanPath('')).toBe('');
    expect(didYouMeanPath('examples/quickstart/modle')).toBe(' Did you mean examples/quickstart/model?');
  }));

test('names are similar when less than half of them differs, or one begins the other', () => {
  expect(similarName('modle', ['src', 'model', 'modules'])).toBe('model');
  expect(similarName('wsam', ['webgpu', 'wasm'])).toBe('wasm');
  expect(similarName('rankk', ['rank', 'epochs'])).toBe('rank');
  expect(similarName('Llama', ['Llama-3.2-1B'])).toBe('Llama-3.2-1B');
  expect(similarName('saves', ['docs', 'test'])).toBeUndefined();
  expect(similarName('', ['csv', 'json'])).toBeUndefined();
  expect(similarName('x', [])).toBeUndefined();
});

test('the home folder is expanded in paths', () => {
  expect(openFolder('~/models').path).toBe(join(homedir(), 'models'));
  expect(folderToWrite('~/models').path).toBe(join(homedir(), 'models'));
  expect(openFolder('models/~/x').path).toBe('models/~/x');
});

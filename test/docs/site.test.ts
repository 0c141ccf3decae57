import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {compilerOptions} from '../../tsconfig.json';
import {entryPoints} from '../../typedoc.json';

const root = join(__dirname, '../..');

test('the API reference has every subpath, under its name', () => {
  expect(Object.values(compilerOptions.paths)).toEqual(entryPoints.map((file) => [`./${file}`]));
  for (const [name, [file]] of Object.entries(compilerOptions.paths)) {
    expect(readFileSync(join(root, file), 'utf8')).toContain(` * @module ${name}\n`);
  }
});

test('the sidebar and the list of guides have every page', () => {
  const [config, list] = ['.vitepress/config.ts', 'README.md'].map((file) =>
    readFileSync(join(root, 'docs', file), 'utf8'),
  );
  const pages = readdirSync(join(root, 'docs')).filter(
    (name) => name.endsWith('.md') && name !== 'README.md',
  );
  expect(pages.filter((name) => !config.includes(`'/${name.replace('.md', '')}'`))).toEqual([]);
  expect(pages.filter((name) => !list.includes(`](${name})`))).toEqual([]);
});

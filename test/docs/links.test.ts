import {mkdtempSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {deadLinks} from './links.ts';

/* Checks every relative link of every Markdown page, and the headings that links name. */

const root = join(__dirname, '../..');
const FOLDERS = ['bench', 'docs', 'examples', 'layers', 'models', 'quant', 'src', 'test'];
const BUILT = 'docs/api/'; // written by `npm run docs`

const pages = ['.', ...FOLDERS].flatMap((folder) =>
  readdirSync(join(root, folder), {recursive: folder !== '.', encoding: 'utf8'})
    .map((name) => (folder === '.' ? name : `${folder}/${name}`))
    .filter((name) => name.endsWith('.md') && !name.startsWith(BUILT)),
);

test('the pages are found', () => {
  expect(pages).toEqual(
    expect.arrayContaining(['README.md', 'docs/training.md', 'layers/kernels/README.md']),
  );
});

test.each(pages)('%s: every relative link leads to a file or a heading', (page) => {
  expect(deadLinks(root, page)).toEqual([]);
});

test('a link to a missing file, heading or image is dead, and one in code does not count', () => {
  const folder = mkdtempSync(join(tmpdir(), 'links-'));
  const page = [
    '# A `page` of (links)',
    '[here](#a-page-of-links) [web](https://example.org/x) [other](other.md#two-1) `[code](code.md)`',
    '[gone](gone.md) [no heading](#none) [theirs](other.md#three) ![image](image.png)',
    '```md\n[block](block.md)\n```',
    '[defined]: missing.md',
  ];
  writeFileSync(join(folder, 'page.md'), page.join('\n'));
  writeFileSync(join(folder, 'other.md'), '## Two\n## Two\n');
  expect(deadLinks(folder, 'page.md')).toEqual([
    'gone.md',
    '#none',
    'other.md#three',
    'image.png',
    'missing.md',
  ]);
  rmSync(folder, {recursive: true});
});

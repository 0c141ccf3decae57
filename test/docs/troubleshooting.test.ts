import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';

/* Checks docs/troubleshooting.md against the codes and messages of the sources. */

const root = join(__dirname, '../..');
const page = readFileSync(join(root, 'docs/troubleshooting.md'), 'utf8');

const sources = ['quant', 'layers', 'models', 'src']
  .flatMap((folder) =>
    readdirSync(join(root, folder), {recursive: true, encoding: 'utf8'})
      .filter((name) => name.endsWith('.ts'))
      .map((name) => readFileSync(join(root, folder, name), 'utf8')),
  )
  .join('\n')
  .replace(/['`] \+\n\s*['`]/g, ''); // a message in several lines

test('every error code has its section, in the order of their declaration', () => {
  const [, union] =
    /export type ErrorCode =(.*?)\n\n/s.exec(readFileSync(join(root, 'quant/errors.ts'), 'utf8')) ?? [];
  const codes = [...(union ?? '').matchAll(/'([A-Z_]+)'/g)].map(([, code]) => code);
  expect(codes.length).toBeGreaterThan(15);
  expect([...page.matchAll(/^## `([A-Z_]+)`$/gm)].map(([, code]) => code)).toEqual(codes);
});

const messages = [...page.slice(page.indexOf('## `')).matchAll(/^\| `([^`]+)`/gm)].map(
  ([, message]) => message,
);

test('the page quotes messages', () => expect(messages.length).toBeGreaterThan(10));

test.each(messages)('a message of the sources has the words: %s', (message) => {
  const missing = message.split('…').filter((piece) => !sources.includes(piece.trim()));
  expect(missing).toEqual([]);
});

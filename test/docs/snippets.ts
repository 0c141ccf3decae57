import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';

const root = join(__dirname, '../..');

const FLOORS = ['quant', 'layers', 'models', 'src'];

/** A code block of a page. */
export interface Snippet {
  /** Page or source file, from the repository's root. */
  page: string;
  /** Line of the page where the block's code begins, from 1. */
  line: number;
  /** Language after the fence, such as `ts`; empty if there is none. */
  language: string;
  /** Name under which other snippets import it, from `` ```ts run=<name> ``; tests run such a block. */
  name?: string;
  code: string;
}

/** Returns all code blocks of README.md, docs/, the READMEs of the floors, and the examples in docstrings. */
export function snippets(): Snippet[] {
  const guides = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'));
  const pages = [
    'README.md',
    ...guides.map((name) => `docs/${name}`),
    ...FLOORS.map((name) => `${name}/README.md`),
  ];
  const sources = FLOORS.flatMap((floor) =>
    readdirSync(join(root, floor), {recursive: true, encoding: 'utf8'})
      .filter((name) => name.endsWith('.ts'))
      .map((name) => `${floor}/${name}`),
  );
  return [...pages, ...sources].flatMap((page) => {
    const file = readFileSync(join(root, page), 'utf8');
    const text = page.endsWith('.ts') ? file.replace(/^ *\* ?/gm, '') : file; // without the docstrings' margin
    return [...text.matchAll(/^ *```(\w*)(?: run=(\w+))?\n(.*?)^ *```$/gms)].map(
      ({index, 1: language, 2: name, 3: code}) => ({
        page,
        line: text.slice(0, index).split('\n').length + 1,
        language,
        name,
        code,
      }),
    );
  });
}

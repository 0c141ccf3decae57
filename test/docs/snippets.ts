import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';

const root = join(__dirname, '../..');

/** A code block of a page. */
export interface Snippet {
  /** Page, from the repository's root. */
  page: string;
  /** Line of the page where the block's code begins, from 1. */
  line: number;
  /** Language after the fence, such as `ts`; empty if there is none. */
  language: string;
  /** Name under which other snippets import it, from `` ```ts run=<name> ``; tests run such a block. */
  name?: string;
  code: string;
}

/** Returns all code blocks of README.md and docs/. */
export function snippets(): Snippet[] {
  const guides = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'));
  return ['README.md', ...guides.map((name) => `docs/${name}`)].flatMap((page) => {
    const text = readFileSync(join(root, page), 'utf8');
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

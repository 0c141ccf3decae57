import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';

const root = join(__dirname, '../..');

/** A TypeScript block of a page. */
export interface Snippet {
  /** Page, from the repository's root. */
  page: string;
  /** Line of the page where the block's code begins, from 1. */
  line: number;
  /** Name under which other snippets import it, from `` ```ts run=<name> ``; such a block is a whole module. */
  name?: string;
  code: string;
}

/** Returns all TypeScript blocks of README.md and docs/. */
export function snippets(): Snippet[] {
  const guides = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'));
  return ['README.md', ...guides.map((name) => `docs/${name}`)].flatMap((page) => {
    const text = readFileSync(join(root, page), 'utf8');
    return [...text.matchAll(/^```ts(?: run=(\w+))?\n(.*?)^```$/gms)].map(({index, 1: name, 2: code}) => ({
      page,
      line: text.slice(0, index).split('\n').length + 1,
      name,
      code,
    }));
  });
}

const IMPORT = /^import (?:\* as (\w+)|\{([^}]*)\}) from '([^']+)';\n/gm;

/**
 * Returns the imports that a block takes over from the blocks above it on the same page, in one line without a line
 * break, so that the block's own lines keep their numbers. A name that the block declares or imports itself is left
 * out.
 */
export function inheritedImports(snippet: Snippet, all: Snippet[]): string {
  if (snippet.name) return '';
  const above = all.filter(({page, line, name}) => page === snippet.page && line < snippet.line && !name);
  const imports = new Map<string, string>();
  for (const {code} of above) {
    for (const [, namespace, names, from] of code.matchAll(IMPORT)) {
      if (namespace) imports.set(namespace, `import * as ${namespace} from '${from}';`);
      for (const part of (names ?? '').split(',').map((name) => name.trim())) {
        if (part) imports.set(part.replace('type ', ''), `import {${part}} from '${from}';`);
      }
    }
  }
  const own = (name: string) =>
    [...snippet.code.matchAll(IMPORT)].some(([statement]) => new RegExp(`\\b${name}\\b`).test(statement));
  return [...imports].flatMap(([name, statement]) => (own(name) ? [] : [statement])).join(' ');
}

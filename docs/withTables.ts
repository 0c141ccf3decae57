import {readFileSync} from 'node:fs';

/**
 * Returns the text of a page with its tables replaced. Each is between `<!-- name: … -->` and `<!-- /name -->`.
 *
 * @param tables the tables by name
 */
export function withTables(file: string, tables: Record<string, string>): string {
  return Object.entries(tables).reduce(
    (text, [name, table]) => {
      const block = new RegExp(`(<!-- ${name}: [^\\n]*-->\\n).*?(<!-- /${name} -->)`, 's');
      if (!block.test(text)) throw new Error(`${file}: expected a block <!-- ${name}: … -->`);
      return text.replace(block, (_, open, close) => `${open}\n${table}\n\n${close}`);
    },
    readFileSync(file, 'utf8'),
  );
}

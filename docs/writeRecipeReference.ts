import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {z} from 'zod';
import {describeType} from '../src/tools/recipes/describeType.ts';
import {IGNORED_KEYS, REFUSED_KEYS} from '../src/tools/recipes/foreignKeys.ts';
import {recipeJsonSchema} from '../src/tools/recipes/recipeJsonSchema.ts';
import {type RecipeKeys, recipeSchema, recipeSections} from '../src/tools/recipes/recipeKeys.ts';
import {withTables} from './withTables.ts';

/*
 * Makes what is derived from the recipe's keys: the JSON schema, and the tables in recipes.md between their markers.
 * `npm run recipe-reference` writes them; a test checks that they are current.
 */

export const SCHEMA_FILE = 'docs/recipe.schema.json';
export const GUIDE_FILE = 'docs/recipes.md';

/** The contents of both files as they should be. */
export function recipeReference(root: string): Record<string, string> {
  const tables = {keys: keyTable(), ignored: ignoredTable(), refused: refusedTable()};
  const updated = withTables(join(root, GUIDE_FILE), tables);
  return {[SCHEMA_FILE]: `${JSON.stringify(recipeJsonSchema(), null, 2)}\n`, [GUIDE_FILE]: updated};
}

function keyTable(): string {
  const sections = Object.entries(recipeSections).map(([section, keys]) => {
    const rows = Object.keys(keys).map((key) => {
      const schema = recipeSchema.shape[key as keyof RecipeKeys];
      const {description = '', default: byDefault} = z.toJSONSchema(schema, {
        io: 'input',
        unrepresentable: 'any',
      });
      return `| \`${key}\` | ${describeType(schema)} | ${byDefault === undefined ? '' : `\`${byDefault}\``} | ${description} |`;
    });
    return `### ${section}\n\n| key | value | default | |\n|---|---|---|---|\n${rows.join('\n')}`;
  });
  return sections.join('\n\n');
}

function ignoredTable(): string {
  const rows = [...new Set(IGNORED_KEYS.values())].map((reason) => {
    const keys = [...IGNORED_KEYS].filter(([, why]) => why === reason).map(([key]) => `\`${key}\``);
    return `| ${reason} | ${keys.join(', ')} |`;
  });
  return `| because | keys |\n|---|---|\n${rows.join('\n')}`;
}

function refusedTable(): string {
  const rows = [...REFUSED_KEYS].map(
    ([key, {off, advice}]) =>
      `| \`${key}\` | ${off.map((value) => `\`${JSON.stringify(value)}\``).join(', ')} | ${advice} |`,
  );
  return `| key | accepted | |\n|---|---|---|\n${rows.join('\n')}`;
}

if (process.argv[1]?.endsWith('writeRecipeReference.ts')) {
  const root = join(import.meta.dirname, '..');
  for (const [file, text] of Object.entries(recipeReference(root))) writeFileSync(join(root, file), text);
}

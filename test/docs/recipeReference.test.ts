import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {recipeReference} from '../../docs/writeRecipeReference.ts';
import {recipeSchema} from '../../src/tools/recipes/recipeKeys.ts';

const root = join(__dirname, '../..');

test.each(Object.entries(recipeReference(root)))(
  '%s matches the output of npm run recipe-reference',
  (file, text) => {
    expect(readFileSync(join(root, file), 'utf8')).toBe(text);
  },
);

test('every key has a description', () => {
  const silent = Object.entries(recipeSchema.shape).filter(([, schema]) => !schema.description);
  expect(silent).toEqual([]);
});

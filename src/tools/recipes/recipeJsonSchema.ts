import {z} from 'zod';
import {FORMER_NAMES, IGNORED_KEYS, REFUSED_KEYS} from './foreignKeys.ts';
import {recipeSchema} from './recipeKeys.ts';

type JsonSchema = z.core.JSONSchema.BaseSchema;

/**
 * Makes the JSON schema of a recipe file, for editors: every key with its meaning, type and default, and each key that
 * has no meaning here with the reason. It is committed as `docs/recipe.schema.json`.
 */
export function recipeJsonSchema(): JsonSchema {
  const {properties, ...rest} = z.toJSONSchema(recipeSchema, {
    io: 'input',
    target: 'draft-07', // the version that editors read
    override: ({jsonSchema}) => dropSafeIntegerBounds(jsonSchema),
  });
  const known = properties as Record<string, JsonSchema>;
  const ignored = [...IGNORED_KEYS].map(([key, reason]) => [key, {description: `Ignored: ${reason}.`}]);
  const refused = [...REFUSED_KEYS].map(([key, {off, advice}]) => [
    key,
    {
      description: `Not supported. ${advice}`,
      enum: [...new Set([...off, ...(off.includes(true) ? [] : [false]), null])],
    },
  ]);
  const former = [...FORMER_NAMES].map(([key, now]) => [
    key,
    {...known[now], deprecated: true, description: `Now \`${now}\`.`},
  ]);
  return {
    title: 'Recipe of tfjs-lora, in the format of LLaMA-Factory',
    ...rest,
    properties: {
      ...Object.fromEntries(Object.entries(known).map(([key, schema]) => [key, orNull(schema)])),
      ...Object.fromEntries([...former, ...ignored, ...refused]),
    },
  };
}

/** Allows a key without a value, which means its default. */
function orNull({description, default: byDefault, ...schema}: JsonSchema): JsonSchema {
  const alternatives = schema.anyOf ? schema.anyOf : [schema];
  return {
    ...(description !== undefined && {description}),
    ...(byDefault !== undefined && {default: byDefault}),
    anyOf: [...alternatives, {type: 'null'}],
  };
}

/** Removes the bounds that Zod gives every integer, the safe range of a double, because they tell readers nothing. */
function dropSafeIntegerBounds(schema: JsonSchema): void {
  if (schema.minimum === Number.MIN_SAFE_INTEGER) delete schema.minimum;
  if (schema.maximum === Number.MAX_SAFE_INTEGER) delete schema.maximum;
}

import {z} from 'zod';

type JsonSchema = z.core.JSONSchema.BaseSchema;

/** Describes the values that a schema accepts: `an integer from 1`, `nf4 or fp4`. */
export function describeType(schema: z.ZodType): string {
  return inWords(z.toJSONSchema(schema, {io: 'input', unrepresentable: 'any'}));
}

/** Returns the words that a schema accepts, if it lists them. */
export function choicesOf(schema: z.ZodType): string[] {
  const {enum: choices = []} = z.toJSONSchema(schema, {io: 'input', unrepresentable: 'any'});
  return choices.map(String);
}

function inWords(schema: JsonSchema): string {
  if (schema.const !== undefined) return String(schema.const);
  if (schema.enum) return alternatives(schema.enum.map(String));
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return alternatives(choices.map((choice) => inWords(choice as JsonSchema)));
  switch (schema.type) {
    case 'boolean':
      return 'true or false';
    case 'string':
      return 'text';
    case 'integer':
      return `an integer${range(schema)}`;
    case 'number':
      return `a number${range(schema)}`;
    case 'array':
      return 'a list';
    case 'object':
      return `a mapping of ${Object.keys(schema.properties ?? {}).join(', ')}`;
    default:
      return 'a value';
  }
}

function range({type, minimum, maximum, exclusiveMinimum, exclusiveMaximum}: JsonSchema): string {
  const isBound = (bound: number | boolean | undefined): bound is number =>
    typeof bound === 'number' && Math.abs(bound) < Number.MAX_SAFE_INTEGER;
  const lowest = type === 'integer' && isBound(exclusiveMinimum) ? exclusiveMinimum + 1 : minimum;
  let words = '';
  if (isBound(lowest)) words += ` from ${lowest}`;
  else if (isBound(exclusiveMinimum)) words += ` above ${exclusiveMinimum}`;
  if (isBound(maximum)) words += `${isBound(lowest) ? '' : ' up'} to ${maximum}`;
  else if (isBound(exclusiveMaximum)) words += `${words && ' to'} below ${exclusiveMaximum}`;
  return words;
}

function alternatives(names: string[]): string {
  const last = names.at(-1) as string;
  return names.length < 2 ? last : `${names.slice(0, -1).join(', ')} or ${last}`;
}

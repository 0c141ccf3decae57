import {TfjsLoraError} from '../errors.ts';
import {type Quantizer, readOnlyError} from '../quantizer.ts';
import {show} from '../show.ts';

type Config = Readonly<Record<string, unknown>>;

/** What a `quantization_config` may say: a check of the value, or `any` if it does not change how weights are read. */
export type ConfigRules = Readonly<Record<string, ((value: unknown) => boolean) | 'any'>>;

/**
 * Checks a `quantization_config` against what this library reads.
 *
 * @param expected what the checked keys must be, for messages
 * @throws TfjsLoraError `UNSUPPORTED` naming the key
 */
export function assertRules(
  config: Config,
  rules: ConfigRules,
  expected: Readonly<Record<string, string>>,
  where: string,
): void {
  for (const [key, value] of Object.entries(config)) {
    const rule = Object.hasOwn(rules, key) ? rules[key] : undefined;
    if (rule === 'any' || rule?.(value)) continue;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where}.${key}: expected ${rule === undefined ? 'no such key' : (expected[key] ?? 'none')}, got ${show(value)}. ` +
        'Load the unquantized files, or files in a format that docs/qlora.md lists.',
    );
  }
}

/** Whether a value is one of those given, or null. */
export const oneOf =
  (...values: unknown[]) =>
  (value: unknown): boolean =>
    value === null || values.includes(value);

/** Whether a value says nothing: null, false, or an empty list or object. */
export const isEmpty = (value: unknown): boolean =>
  value == null || value === false || (typeof value === 'object' && Object.keys(value).length === 0);

/** Makes a method that needs data to calibrate with, and whose files only are read. */
export const onlyFromFiles = (method: string): Pick<Quantizer, 'name' | 'isReadOnly' | 'quantize'> => ({
  name: method,
  isReadOnly: true,
  quantize(_values, _shape, {name = 'quantize'} = {}) {
    throw readOnlyError(method, name);
  },
});

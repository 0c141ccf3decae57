import {TfjsLoraError} from '../../quant/errors.ts';
import type {GgufScalar, GgufValue} from '../../quant/gguf/ggufValue.ts';
import {show} from '../../quant/show.ts';

/** A file's metadata with checked types. */
export class MetadataReader {
  /** @param path the file, for messages */
  constructor(
    readonly values: ReadonlyMap<string, GgufValue>,
    readonly path: string,
  ) {}

  /** Returns the text of a key; undefined if the file lacks it. */
  text(key: string): string | undefined {
    return this.scalar(key, 'a string', (value) => typeof value === 'string') as string | undefined;
  }

  /** Returns the flag of a key; undefined if the file lacks it. */
  flag(key: string): boolean | undefined {
    return this.scalar(key, 'true or false', (value) => typeof value === 'boolean') as boolean | undefined;
  }

  /** Returns the whole number from 0 of a key; undefined if the file lacks it. */
  count(key: string): number | undefined {
    const isCount = (value: GgufScalar) => Number.isSafeInteger(value) && (value as number) >= 0;
    return this.scalar(key, 'a whole number from 0', isCount) as number | undefined;
  }

  /** Returns the number of a key; undefined if the file lacks it. A float32 is the shortest decimal that rounds to it. */
  number(key: string): number | undefined {
    const value = this.scalar(key, 'a number', (value) => Number.isFinite(value)) as number | undefined;
    return value !== undefined && this.values.get(key)?.type === 'float32' ? shortest(value) : value;
  }

  /** Returns the texts of a key; undefined if the file lacks it. */
  texts(key: string): readonly string[] | undefined {
    return this.list(key, 'strings', (value) => typeof value === 'string') as readonly string[] | undefined;
  }

  /** Returns the numbers of a key; undefined if the file lacks it. */
  numbers(key: string): readonly number[] | undefined {
    return this.list(key, 'numbers', (value) => typeof value === 'number') as readonly number[] | undefined;
  }

  /** Returns the flags of a key, which may be spelled as 0 and 1; undefined if the file lacks it. */
  flags(key: string): readonly boolean[] | undefined {
    const isFlag = (value: GgufScalar) => typeof value === 'boolean' || value === 0 || value === 1;
    return this.list(key, 'flags', isFlag)?.map(Boolean);
  }

  /** Returns a value that a file must have. */
  required<T>(key: string, value: T | undefined): T {
    if (value !== undefined) return value;
    throw this.wrong(key, 'a value', 'none');
  }

  /** Makes the error for a value that the file must not have. */
  wrong(key: string, expected: string, got: string): TfjsLoraError {
    return new TfjsLoraError('INVALID_CONFIG', `${this.path} ${key}: expected ${expected}, got ${got}`);
  }

  /** Makes the error for a value that is not supported. */
  unsupported(key: string, expected: string, got: unknown): TfjsLoraError {
    return new TfjsLoraError('UNSUPPORTED', `${this.path} ${key}: expected ${expected}, got ${show(got)}`);
  }

  private scalar(
    key: string,
    expected: string,
    accepts: (value: GgufScalar) => boolean,
  ): GgufScalar | undefined {
    const entry = this.values.get(key);
    if (!entry) return undefined;
    if ('value' in entry && accepts(entry.value)) return entry.value;
    throw this.wrong(key, expected, 'value' in entry ? String(show(entry.value)) : 'a list');
  }

  private list(
    key: string,
    expected: string,
    accepts: (value: GgufScalar) => boolean,
  ): readonly GgufScalar[] | undefined {
    const entry = this.values.get(key);
    if (!entry) return undefined;
    if (entry.type === 'array' && entry.items.type !== 'array' && entry.items.values.every(accepts))
      return entry.items.values;
    throw this.wrong(key, `a list of ${expected}`, entry.type === 'array' ? 'other values' : entry.type);
  }
}

/** Returns the decimal with the fewest digits that rounds to a float32: 1e-5 for 9.999999747378752e-6. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

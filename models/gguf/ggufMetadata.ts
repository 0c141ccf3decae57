import type {GgufArray, GgufScalar, GgufValue, GgufValueType} from '../../quant/gguf/ggufValue.ts';

/** Metadata of a GGUF file that is being written; each call sets one key. */
export class GgufMetadata extends Map<string, GgufValue> {
  text(key: string, value: string | undefined): this {
    return this.scalar('string', key, value);
  }

  /** Sets a whole number from 0, which GGUF calls uint32. */
  count(key: string, value: number | undefined): this {
    return this.scalar('uint32', key, value);
  }

  number(key: string, value: number | undefined): this {
    return this.scalar('float32', key, value);
  }

  flag(key: string, value: boolean | undefined): this {
    return this.scalar('bool', key, value);
  }

  list(key: string, type: Exclude<GgufValueType, 'array'>, values: readonly GgufScalar[]): this {
    return this.set(key, {type: 'array', items: {type, values} as GgufArray});
  }

  /** Sets a value, unless it is undefined. */
  private scalar(type: Exclude<GgufValueType, 'array'>, key: string, value: GgufScalar | undefined): this {
    return value === undefined ? this : this.set(key, {type, value});
  }
}

import type * as tf from '@tensorflow/tfjs';
import type {ElementType, UniformType} from '../device/shader.ts';
import type {WeightFormat} from './weightFormat.ts';

/** Several weights of one format for a shader: additions to its declaration and to its call. */
export interface NumberedWeights {
  /** Represents everything that the declaration depends on. */
  key: string;
  buffers: Record<string, ElementType>;
  tensors: Record<string, tf.TensorInfo>;
  uniforms: Record<string, UniformType>;
  values: Record<string, number>;
  /** See {@link WeightFormat.prepare}. */
  prepare: string;
  /** WGSL of `weightOctet0`, `weightOctet1` …; see {@link WeightFormat.octet}. */
  octets(): string;
}

/** Numbers the buffers, uniforms and functions of weights with equal formats (`key`), so that one shader reads all. */
export function numberWeights(weights: WeightFormat[]): NumberedWeights {
  const numbered = <T>(of: (weight: WeightFormat) => Record<string, T>): Record<string, T> =>
    Object.fromEntries(
      weights.flatMap((weight, i) =>
        Object.entries(of(weight)).map(([name, value]) => [`${name}${i}`, value]),
      ),
    );
  const [first] = weights;
  return {
    key: `${weights.length} × ${first.key}`,
    buffers: numbered(({buffers}) => buffers),
    tensors: numbered(({tensors}) => tensors),
    uniforms: numbered(({uniforms}) => uniforms),
    values: numbered(({values}) => values),
    prepare: first.prepare,
    octets: () => numberedOctets(first, weights.length),
  };
}

/** Repeats the declarations that depend on a weight's own buffers and uniforms, once for each weight. */
function numberedOctets({octet, buffers, uniforms}: WeightFormat, count: number): string {
  const declarations = octet().split(/^(?=fn |const |var<)/m);
  const own = new Set([...Object.keys(buffers), ...Object.keys(uniforms)]);
  const wordsOf = (text: string) => text.match(/\w+/g) ?? [];
  const isOwn = (text: string) => wordsOf(text).some((word) => own.has(word));
  const nameOf = (text: string) => /^fn (\w+)/.exec(text)?.[1];
  for (let size = -1; size !== own.size; ) {
    size = own.size;
    for (const text of declarations.filter(isOwn)) own.add(nameOf(text) as string);
  }
  const shared = declarations.filter((text) => !isOwn(text));
  const copies = Array.from({length: count}, (_, i) =>
    declarations
      .filter(isOwn)
      .map((text) => text.replace(/\w+/g, (word) => (own.has(word) ? `${word}${i}` : word)))
      .join(''),
  );
  return [...shared, ...copies].join('\n');
}

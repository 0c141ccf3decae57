import {TfjsLoraError} from '../errors.ts';
import type {GgmlLayout, GgmlType} from './ggmlType.ts';
import {bf16} from './types/bf16.ts';
import {f16} from './types/f16.ts';
import {f32} from './types/f32.ts';
import {iq4_nl} from './types/iq4_nl.ts';
import {iq4_xs} from './types/iq4_xs.ts';
import {q2_k} from './types/q2_k.ts';
import {q3_k} from './types/q3_k.ts';
import {q4_0} from './types/q4_0.ts';
import {q4_1} from './types/q4_1.ts';
import {q4_k} from './types/q4_k.ts';
import {q5_0} from './types/q5_0.ts';
import {q5_1} from './types/q5_1.ts';
import {q5_k} from './types/q5_k.ts';
import {q6_k} from './types/q6_k.ts';
import {q8_0} from './types/q8_0.ts';

/** The types that are decoded, by number. */
const DECODED: ReadonlyMap<number, GgmlType> = new Map(
  [f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs].map((type) => [
    type.id,
    type,
  ]),
);

/** The types that are only recognized: `[id, name, valuesPerBlock, bytesPerBlock]`, as in PyPI's `gguf` 0.19. */
const RECOGNIZED: readonly (readonly [number, string, number, number])[] = [
  [9, 'Q8_1', 32, 40],
  [15, 'Q8_K', 256, 292],
  [16, 'IQ2_XXS', 256, 66],
  [17, 'IQ2_XS', 256, 74],
  [18, 'IQ3_XXS', 256, 98],
  [19, 'IQ1_S', 256, 50],
  [21, 'IQ3_S', 256, 110],
  [22, 'IQ2_S', 256, 82],
  [24, 'I8', 1, 1],
  [25, 'I16', 1, 2],
  [26, 'I32', 1, 4],
  [27, 'I64', 1, 8],
  [28, 'F64', 1, 8],
  [29, 'IQ1_M', 256, 56],
  [34, 'TQ1_0', 256, 54],
  [35, 'TQ2_0', 256, 66],
  [39, 'MXFP4', 32, 17],
  [40, 'NVFP4', 64, 36],
  [41, 'Q1_0', 128, 18],
];

const LAYOUTS: ReadonlyMap<number, GgmlLayout> = new Map<number, GgmlLayout>([
  ...RECOGNIZED.map(([id, name, valuesPerBlock, bytesPerBlock]): [number, GgmlLayout] => [
    id,
    {id, name, valuesPerBlock, bytesPerBlock},
  ]),
  ...DECODED,
]);

/** Returns the layout of a type, whether or not it is decoded; undefined for an unknown number. */
export const ggmlLayout = (id: number): GgmlLayout | undefined => LAYOUTS.get(id);

/** Returns the names of the types that are decoded. */
export const ggmlTypeNames = (): string[] => [...DECODED.values()].map(({name}) => name);

/**
 * Returns the type of a number or name, such as `14` or `Q6_K` (in capitals or not).
 *
 * @param what what has this type, for the message
 * @throws TfjsLoraError `UNSUPPORTED` when it is not decoded
 */
export function ggmlType(idOrName: number | string, what = 'tensor'): GgmlType {
  const type =
    typeof idOrName === 'number'
      ? DECODED.get(idOrName)
      : [...DECODED.values()].find(({name}) => name === idOrName.toUpperCase());
  if (type) return type;
  const got = typeof idOrName === 'number' ? (ggmlLayout(idOrName)?.name ?? `number ${idOrName}`) : idOrName;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${what} [GGML type]: expected one of ${ggmlTypeNames().join(', ')}, got ${got}. Convert the file to one of these.`,
  );
}

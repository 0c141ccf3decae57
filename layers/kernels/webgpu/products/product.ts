import {quadAt} from '../device/octets.ts';
import type {RowsView} from '../device/rowsView.ts';
import type {Multiplier} from '../weights/weightFormat.ts';

/** A product with a stored weight: the arguments of every way to multiply. */
export interface Product extends Multiplier {
  /** `[m, k]` float32, or the halves of packed rows. */
  x: RowsView;
}

/** Returns the sizes of a product: `[m, k] · [k, n]`. */
export function sidesOf({x, rows, cols, transposeWeight}: Product): {m: number; k: number; n: number} {
  const [m] = x.shape;
  return transposeWeight ? {m, k: cols, n: rows} : {m, k: rows, n: cols};
}

/**
 * Where the rows of a result go. `float32`: to `[m, n]`. `added`: added to the float32 that is there. `halves`: as
 * float16 to int32 `[m, n / 2]`, row by row or in octets, divided by the scales of the operand's rows; n is then a
 * multiple of 4.
 */
export interface Result {
  y: RowsView;
  kind: 'float32' | 'added' | 'halves';
}

/** How a shader stores a result, to be put into its declaration. */
export interface ResultFormat {
  kind: Result['kind'];
  inOctets: boolean;
}

export const resultFormat = ({y, kind}: Result): ResultFormat => ({kind, inOctets: y.inOctets ?? false});

/** The type of four neighbours of a result. */
export const resultType = (kind: Result['kind']) => (kind === 'halves' ? 'vec2u' : 'vec4f');

/** WGSL that stores four neighbours, `value`, at index `at` of `y`. `halves` need `HALVES`. */
export const storeResult = (kind: Result['kind'], at: string, value: string): string =>
  ({
    float32: `y[${at}] = ${value};`,
    added: `y[${at}] += ${value};`,
    halves: `y[${at}] = halved(${value});`,
  })[kind];

/** WGSL that stores four neighbours, `value`, as vector `quad` of a row of `quads`. */
export const storeQuad = (
  {kind, inOctets}: ResultFormat,
  row: string,
  quad: string,
  quads: number,
  value: string,
): string => storeResult(kind, quadAt(row, quad, quads, inOctets), value);

import type * as tf from '@tensorflow/tfjs';
import {wholeOf} from '../device/octets.ts';
import type {RowsView} from '../device/rowsView.ts';
import type {PackedTensors} from '../products/packRows.ts';
import type {Heads} from './attendRows.ts';

/**
 * What a block keeps for backward: its input, the results of attention if they are small, and, without checkpointing,
 * everything else that is not cheap to make.
 */
export interface Kept {
  x: PackedTensors;
  attended?: Attended;
  rest?: KeptAttention & {h: PackedTensors} & Gates;
}

/** The results of attention. */
export interface Attended {
  attended: RowsView;
  logSums: tf.TensorInfo;
}

/** Tensors that backward of attention reads. */
interface KeptAttention extends Heads, Attended {}

/** Gates of feed-forward before SwiGLU. */
export type Gates = Record<'gate' | 'up', tf.TensorInfo>;

/** Names of what a block keeps besides its input, in the order of the outputs. */
const REST = ['query', 'key', 'value', 'attended', 'logSums', 'gate', 'up'] as const;

/** Returns what a block keeps as plain tensors, as the engine or host memory holds them. */
export function tensorsOf({x, attended, rest}: Kept): tf.TensorInfo[] {
  const ofAttention = attended ? [attended.attended, attended.logSums] : [];
  const ofRest = rest ? [...REST.map((name) => rest[name]), rest.h.halves, rest.h.scales] : [];
  return [x.halves, x.scales, ...ofAttention, ...ofRest].map(wholeOf);
}

/** Returns what a block kept, from the tensors of {@link tensorsOf}. */
export function keptFrom([halves, scales, ...rest]: tf.TensorInfo[]): Kept {
  if (rest.length === 0) return {x: {halves, scales}};
  if (rest.length === 2) return {x: {halves, scales}, attended: {attended: rest[0], logSums: rest[1]}};
  const named = Object.fromEntries(REST.map((name, i) => [name, rest[i]])) as Record<
    (typeof REST)[number],
    tf.TensorInfo
  >;
  const [hHalves, hScales] = rest.slice(REST.length);
  return {x: {halves, scales}, rest: {...named, h: {halves: hHalves, scales: hScales}}};
}

import * as tf from '@tensorflow/tfjs';
import {backendTraits} from '../../../layers/ops/backendTraits.ts';
import {
  blockwise8bitShapes,
  fromBlockwise8bitOp,
  toBlockwise8bitOp,
} from '../../../layers/ops/blockwise8bit.ts';
import {hasKernel} from '../../../layers/ops/dispatch.ts';
import type {AnyOp} from '../../../layers/ops/op.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {OptionNames} from '../../../quant/knownOptions.ts';
import type {StateSlot} from './stateStore.ts';

export interface Min8bitSizeArgs {
  /** Size below which variables keep their state in 32 bits. Default 4096, as in bitsandbytes. */
  min8bitSize?: number;
}

export const MIN_8BIT_OPTIONS = {min8bitSize: true} satisfies OptionNames<Min8bitSizeArgs>;

/**
 * Checks the setting and fills in its default.
 *
 * @param what optimizer whose setting it is, for messages
 * @throws TfjsLoraError `INVALID_ARGUMENT`
 */
export function resolveMin8bitSize({min8bitSize = 4096}: Min8bitSizeArgs, what: string): number {
  if (min8bitSize >= 0) return min8bitSize;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${what} min8bitSize: expected a number from 0, got ${min8bitSize}`,
  );
}

/**
 * Checks that the backend can run an 8-bit update. Codes are packed in integers, so a backend with only float32 needs a
 * kernel.
 *
 * @param update the whole update, which may have a kernel
 * @throws TfjsLoraError `UNSUPPORTED`
 */
export function assert8bitUpdate(update: AnyOp): void {
  const isStored = hasKernel(fromBlockwise8bitOp) && hasKernel(toBlockwise8bitOp);
  if (backendTraits().keepsIntegers || hasKernel(update) || isStored) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `8-bit optimizer: expected a backend that computes in integers or has a kernel ${update.kernelName}, ` +
      `got ${tf.getBackend()}. ` +
      'Call useBackend(), which registers kernels, or use a 32-bit optimizer, paged if memory is short.',
  );
}

/** Names the tensors of states in 8 bits: `<state>.codes` and `<state>.absmax` of each. */
export function names8bit(states: string[]): string[] {
  return states.flatMap((state) => [`${state}.codes`, `${state}.absmax`]);
}

/** Describes those tensors for a variable of this shape. */
export function slots8bit(states: string[], shape: number[]): StateSlot[] {
  const {codes, absmax} = blockwise8bitShapes(shape.reduce((size, length) => size * length, 1));
  return states.flatMap((state): StateSlot[] => [
    {name: `${state}.codes`, shape: codes, dtype: 'int32'},
    {name: `${state}.absmax`, shape: absmax, dtype: 'float32'},
  ]);
}

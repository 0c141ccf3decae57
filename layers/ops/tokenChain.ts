import {backendTraits} from './backendTraits.ts';
import type {ChainedModel, TokenChain} from './chainStarter.ts';
import {fitsDecodeKernel} from './decodeStack.ts';
import type {CachedBlock, DecodeStackOptions} from './stackBlock.ts';
import {fits16BitKernels} from './storedMatrix.ts';

/** Whether the active backend has chains. */
export function canChain(): boolean {
  return backendTraits().startChain !== undefined;
}

/**
 * Starts a {@link TokenChain} if the backend has one for the model. The model's tensors must not change.
 *
 * @param caches tensors that passes write to
 * @param options `cos` and `sin` cover all positions to come, `[1, 1, positions, headDim / 2]`, and `segments` the
 *   caches' whole capacity
 */
export function startTokenChain(
  model: ChainedModel,
  caches: CachedBlock[],
  options: DecodeStackOptions,
): TokenChain | undefined {
  const {blocks, table, head} = model;
  const isFit =
    fitsDecodeKernel(blocks, options, caches[0].keys.shape[0]) &&
    fits16BitKernels(table) &&
    fits16BitKernels(head.weight);
  return isFit ? backendTraits().startChain?.(model, caches, options) : undefined;
}

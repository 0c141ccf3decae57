import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {backendTraits} from './backendTraits.ts';
import {decodeAttention} from './decodeAttention.ts';
import {runKernel} from './dispatch.ts';
import {op, type Tensors} from './op.ts';
import {rmsNorm} from './rmsNorm.ts';
import {
  attributesOfStack,
  type CachedBlock,
  type DecodeStackOptions,
  fitsStackKernel,
  PROJECTIONS,
  type PreparedStack,
  projectInStack,
  type StackBlock,
  type StackOptions,
  tensorsOfStack,
} from './stackBlock.ts';
import {swiGLU} from './swiGLU.ts';

/** Takes the tables, and the caches of each block as `keys0`, `values0` … */
export const decodeStackOp = op<
  Tensors<'x' | 'cos' | 'sin'> & {segments?: tf.TensorInfo} & {
    [cached: `${'keys' | 'values'}${number}`]: tf.TensorInfo;
  },
  {past: number; stack: PreparedStack},
  tf.Tensor3D
>('DecodeStack');

/**
 * Runs one new position of each sequence through all decoder blocks: a {@link decoderStack} that also attends to the
 * cached keys and values. No gradient. A kernel reads each weight once, as it is stored, and overwrites the caches.
 *
 * @param x `[B, 1, C]` float32
 * @param blocks the same array at each position of a generation; its tensors must not change
 * @param caches one per block, of which the first `past` positions count; the results replace them
 * @param past number of cached positions, fewer than the caches' capacity
 * @returns `[B, 1, C]` float32, and the caches with the new position
 * @throws TfjsLoraError `SHAPE_MISMATCH`
 */
export function decodeStack(
  x: tf.Tensor3D,
  blocks: StackBlock[],
  caches: CachedBlock[],
  past: number,
  options: DecodeStackOptions,
): {y: tf.Tensor3D; caches: CachedBlock[]} {
  const {cos, sin, segments} = options;
  assertShape('decodeStack x', x, [-1, 1, -1]);
  assertShape('decodeStack cos', cos, [-1, 1, 1, caches[0].keys.shape[3] / 2]);
  if (!fitsDecodeKernel(blocks, options, x.shape[0])) return composed(x, blocks, caches, past, options);
  const cached = Object.fromEntries(
    caches.flatMap(({keys, values}, i) => [
      [`keys${i}`, keys],
      [`values${i}`, values],
    ]),
  );
  const inputs = {x, cos, sin, ...(segments && {segments}), ...cached};
  return {y: runKernel(decodeStackOp, inputs, {past, stack: prepared(blocks, options)}), caches};
}

/** Whether a kernel takes such blocks and this many sequences. */
export function fitsDecodeKernel(blocks: StackBlock[], options: StackOptions, batch: number): boolean {
  const {sequences, adapters} = backendTraits().decodesStacks;
  if (batch > sequences || !fitsStackKernel(blocks, options, [decodeStackOp])) return false;
  return adapters || blocks.every((block) => PROJECTIONS.every((name) => block[name].lora === undefined));
}

const preparedStacks = new WeakMap<StackBlock[], PreparedStack>();

function prepared(blocks: StackBlock[], options: StackOptions): PreparedStack {
  const known = preparedStacks.get(blocks);
  if (known) return known;
  const stack = {attributes: attributesOfStack(blocks, options), tensors: tensorsOfStack(blocks)};
  preparedStacks.set(blocks, stack);
  return stack;
}

function composed(
  x: tf.Tensor3D,
  blocks: StackBlock[],
  caches: CachedBlock[],
  past: number,
  {epsilon, cos, sin, segments}: DecodeStackOptions,
): {y: tf.Tensor3D; caches: CachedBlock[]} {
  const [batch, , size] = x.shape;
  let hidden = x.reshape([batch, size]) as tf.Tensor2D;
  const next: CachedBlock[] = [];
  for (const [i, block] of blocks.entries()) {
    const n = rmsNorm(hidden, block.input_layernorm, epsilon) as tf.Tensor2D; // [B, C]
    const [query, key, value] = [block.q_proj, block.k_proj, block.v_proj].map((each) =>
      projectInStack(n, each),
    );
    const [attended, keys, values] = decodeAttention(
      {query, key, value, cos, sin, segments, ...caches[i]},
      past,
    );
    next.push({keys, values});
    const h = tf.add(hidden, projectInStack(attended, block.o_proj)) as tf.Tensor2D;
    const m = rmsNorm(h, block.post_attention_layernorm, epsilon) as tf.Tensor2D;
    const gated = swiGLU(projectInStack(m, block.gate_proj), projectInStack(m, block.up_proj)) as tf.Tensor2D;
    hidden = tf.add(h, projectInStack(gated, block.down_proj)) as tf.Tensor2D;
  }
  return {y: hidden.reshape([batch, 1, size]), caches: next};
}

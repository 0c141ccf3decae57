import type * as tf from '@tensorflow/tfjs';
import {scoreSettings} from '../../../ops/attention.ts';
import {decodeStackOp} from '../../../ops/decodeStack.ts';
import {PROJECTIONS, type PreparedStack, type StackBlock} from '../../../ops/stackBlock.ts';
import {kernel} from '../../kernel.ts';
import {attendOnce} from '../attention/decodeAttention.ts';
import type {RowsView} from '../device/rowsView.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {normalized} from '../elementwise/rmsNorm.ts';
import {gateRows} from '../elementwise/swiGLU.ts';
import {BATCH_ROWS, runBatchProducts, usesBatchProducts} from '../products/batchProduct.ts';
import {buffersOfRowProducts, type Factor, type RowOptions, runRowProducts} from '../products/rowProduct.ts';
import {formatOf} from '../weights/usingWeight.ts';

type Name = (typeof PROJECTIONS)[number];

/** The weights of a block as row products take them, and its norms. */
type Block = Record<Name, Factor> & Record<Exclude<keyof StackBlock, Name>, tf.TensorInfo>;

/** Beyond this many sequences, norms are computed by themselves, and {@link runBatchProducts} computes the products. */
const FEW_SEQUENCES = 4;

/** Returns the most sequences that {@link decodeStack} takes: a product computes all of them for each weight it reads. */
export const mostDecoded = (backend: WebGPUBackend): number =>
  usesBatchProducts(backend, BATCH_ROWS) ? BATCH_ROWS : FEW_SEQUENCES;

/**
 * `DecodeStack` (layers/ops/decodeStack.ts) without low-rank paths, in five dispatches a block: the norm, query, key
 * and value; attention; the output and its sum with the residual; the norm, gate and up, and SwiGLU; down and its sum.
 * For more than a few sequences, in seven: each norm is one of its own, because every team of a product would compute it
 * for all sequences. It writes the new position into the caches' own memory.
 */
export const decodeStack = kernel(decodeStackOp, 'webgpu', ({inputs, attrs: {past, stack}, backend}) => {
  const {heads, keyValueHeads, headDim, epsilon} = stack.attributes;
  const {x, cos, sin, segments} = inputs;
  const [batch, , size] = x.shape;
  let hidden: tf.TensorInfo = {...infoOf(x), shape: [batch, size]};
  for (const [i, block] of blocksOf(backend, stack).entries()) {
    const options = (weight: tf.TensorInfo) => ({norm: {weight, epsilon}});
    const projected = products(
      backend,
      hidden,
      [block.q_proj, block.k_proj, block.v_proj],
      options(block.input_layernorm),
    );
    const [query, key, value] = partsOf(
      projected,
      batch,
      [heads, keyValueHeads, keyValueHeads].map((n) => n * headDim),
    );
    const [keys, values] = [inputs[`keys${i}`], inputs[`values${i}`]];
    const attended = attendOnce(
      backend,
      {query, key, value, cos, sin, keys, values, segments},
      {past, ...scoreSettings(headDim)},
    );
    backend.disposeData(projected.dataId);
    const between = products(backend, attended, [block.o_proj], {base: hidden});
    const gated = gate(backend, between, block, options(block.post_attention_layernorm));
    const next = products(backend, gated, [block.down_proj], {base: between});
    for (const {dataId} of [attended, between, gated]) backend.disposeData(dataId);
    if (i > 0) backend.disposeData(hidden.dataId);
    hidden = next;
  }
  return {...hidden, shape: x.shape};
});

const infoOf = ({dataId, dtype, shape}: tf.TensorInfo): tf.TensorInfo => ({dataId, dtype, shape});

const preparedBlocks = new WeakMap<PreparedStack, Block[]>();

/** Returns a stack's blocks, which are made once because its tensors do not change. */
function blocksOf(backend: WebGPUBackend, stack: PreparedStack): Block[] {
  const known = preparedBlocks.get(stack);
  if (known) return known;
  const names = Object.keys(stack.tensors);
  const blocks = stack.attributes.blocks.map((attributes, i) => {
    const factors = PROJECTIONS.map((name, p) => {
      const prefix = `${i}.${name}.`;
      const own = names.filter((full) => full.startsWith(prefix));
      const tensors = Object.fromEntries(own.map((full) => [full.slice(prefix.length), stack.tensors[full]]));
      return [name, {weight: formatOf(backend, tensors, attributes[p]), rows: attributes[p].rows}];
    });
    const norms = ['input_layernorm', 'post_attention_layernorm'].map((name) => [
      name,
      stack.tensors[`${i}.${name}`],
    ]);
    return Object.fromEntries([...factors, ...norms]) as Block;
  });
  preparedBlocks.set(stack, blocks);
  return blocks;
}

/** Whether one dispatch computes the products: weights of one format, and no more buffers than the device binds. */
const areJoined = ({device}: WebGPUBackend, factors: Factor[], options: RowOptions): boolean =>
  factors.every(({weight}) => weight.key === factors[0].weight.key) &&
  buffersOfRowProducts(factors, options) <= device.limits.maxStorageBuffersPerShaderStage;

/** Returns the products of rows with each weight, one after another: {@link partsOf}. */
function products(
  backend: WebGPUBackend,
  x: tf.TensorInfo,
  factors: Factor[],
  options: RowOptions,
): tf.TensorInfo {
  const [batch] = x.shape;
  const rows = factors.map((factor) => factor.rows);
  const y = backend.makeTensorInfo([batch, rows.reduce((sum, count) => sum + count, 0)], 'float32');
  if (areJoined(backend, factors, options)) run(backend, x, factors, y, options);
  else
    for (const [i, part] of partsOf(y, batch, rows).entries()) run(backend, x, [factors[i]], part, options);
  return y;
}

/** Runs products of a few rows, or of a batch. */
function run(
  backend: WebGPUBackend,
  x: tf.TensorInfo,
  factors: Factor[],
  y: RowsView,
  options: RowOptions,
): void {
  const {norm, ...rest} = options;
  const [batch, size] = x.shape;
  if (batch <= FEW_SEQUENCES || size % 8 !== 0) {
    runRowProducts(backend, x, factors, y, options);
    return;
  }
  const normed = norm && normalized(backend, x, norm.weight, norm.epsilon);
  runBatchProducts(backend, normed ?? x, factors, y, rest);
  if (normed) backend.disposeData(normed.dataId);
}

/** Returns the parts of {@link products}, `[batch, rows]` of each weight. */
function partsOf({dataId, dtype}: tf.TensorInfo, batch: number, rows: number[]): RowsView[] {
  let firstByte = 0;
  return rows.map((count) => {
    const part = {dataId, dtype, shape: [batch, count], firstByte};
    firstByte += 4 * batch * count;
    return part;
  });
}

/** Returns `silu(x · gateᵀ) · (x · upᵀ)`. */
function gate(
  backend: WebGPUBackend,
  x: tf.TensorInfo,
  {gate_proj, up_proj}: Block,
  options: RowOptions,
): tf.TensorInfo {
  if (areJoined(backend, [gate_proj, up_proj], options)) {
    const y = backend.makeTensorInfo([x.shape[0], gate_proj.rows], 'float32');
    run(backend, x, [gate_proj, up_proj], y, {...options, isGated: true});
    return y;
  }
  const [gate, up] = [gate_proj, up_proj].map((factor) => products(backend, x, [factor], options));
  const y = gateRows(backend, gate, up);
  for (const {dataId} of [gate, up]) backend.disposeData(dataId);
  return y;
}

import * as tf from '@tensorflow/tfjs';
import {linearCrossEntropyOp} from '../../../ops/linearCrossEntropy.ts';
import {kernel} from '../../kernel.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {rowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {sumOverWorkgroup} from '../device/sumOverWorkgroup.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {ownTensor} from '../elementwise/elementwise.ts';
import {lossesOfRows, PACKED_GRADIENT_FACTOR} from '../elementwise/softmaxCrossEntropy.ts';
import {multiplyPacked} from '../products/multiply.ts';
import {packRows} from '../products/packRows.ts';
import {usingWeight} from '../weights/usingWeight.ts';

/** Chunks have a multiple of this many rows, so that the tiles of a product divide them evenly. */
const CHUNK_STEP = 128;
/**
 * The fewest rows times the size of hidden states: fewer would read the head's weight too often. In large models the head
 * is a smaller part of a step, and memory counts for more.
 */
const LEAST_SIZE = 2 ** 19;

/**
 * `LinearCrossEntropy` (layers/ops/linearCrossEntropy.ts) in float16, with logits and sums in float32. Second output, if
 * wanted: the gradient of `hidden`, which overwrites it if it is spent.
 */
export const linearCrossEntropy = kernel(linearCrossEntropyOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {hidden, labels, ...weights} = inputs;
  const {rows: vocab, cols, wantsGradient, ofEachRow, isSpent} = attrs;
  const [rows] = hidden.shape;
  const losses = backend.makeTensorInfo([rows], 'float32');
  const isOwned = isSpent && backend.refCount(hidden.dataId) === 1;
  const made = () =>
    isOwned ? ownTensor(backend, hidden, true) : backend.makeTensorInfo(hidden.shape, 'float32');
  const gradient = wantsGradient ? made() : undefined;
  const step = chunkRows(backend, rows, cols, vocab);
  const scales = wantsGradient ? constant(backend, Math.min(step, rows)) : undefined;
  usingWeight(backend, weights, attrs, {rowCount: step, transposeWeight: false}, ({weight}) => {
    const product = {weight, rows: vocab, cols};
    for (let begin = 0; begin < rows; begin += step) {
      const count = Math.min(step, rows - begin);
      const x = packRows(backend, rowsView(hidden, begin, count));
      const logits = makeScratch(backend, [count, vocab]);
      multiplyPacked(backend, {...product, x: x.halves, transposeWeight: true}, x, {
        y: logits,
        kind: 'float32',
      });
      for (const {dataId} of [x.halves, x.scales]) backend.disposeData(dataId);
      const slopes = gradient && makeScratch(backend, [count, vocab / 2], 'int32');
      const given = {
        logits,
        labels: rowsView(labels, begin, count),
        losses: rowsView(losses, begin, count),
        ignoreIndex: -1,
      };
      lossesOfRows(backend, given, slopes && {gradient: slopes, isPacked: true});
      backend.disposeData(logits.dataId);
      if (!gradient || !slopes || !scales) continue;
      const packed = {halves: slopes, scales: rowsView(scales, 0, count)};
      const result = {y: rowsView(gradient, begin, count), kind: 'float32'} as const;
      multiplyPacked(backend, {...product, x: slopes, transposeWeight: false}, packed, result);
      backend.disposeData(slopes.dataId);
    }
  });
  const loss = ofEachRow ? losses : sum(backend, losses);
  for (const made of [ofEachRow ? undefined : losses, scales]) if (made) backend.disposeData(made.dataId);
  return gradient ? [loss, gradient] : loss;
});

/**
 * Returns how many rows have logits at the same time: about as many as take the memory of the hidden states in float16,
 * because the blocks' backward pass has buffers of that size, or {@link LEAST_SIZE} divided by `size` if that is more.
 * Never more than the device binds.
 */
export function chunkRows({device}: WebGPUBackend, rows: number, size: number, vocab: number): number {
  const {maxStorageBufferBindingSize} = device.limits;
  const chunks = Math.floor((rows * size) / (2 * vocab) / CHUNK_STEP);
  const wanted = Math.max(LEAST_SIZE / size, chunks * CHUNK_STEP);
  const most = Math.min(wanted, maxStorageBufferBindingSize / (4 * vocab));
  return Math.max(CHUNK_STEP, Math.floor(most / CHUNK_STEP) * CHUNK_STEP);
}

/**
 * Returns the scales of packed gradients, which are all the same. The card makes them, because a pass that uploads cannot be
 * recorded.
 */
function constant(backend: WebGPUBackend, rows: number): tf.TensorInfo {
  const y = backend.makeTensorInfo([rows], 'float32');
  runShader(backend, {
    shader: filling(),
    buffers: {y},
    uniforms: {count: rows, value: 1 / PACKED_GRADIENT_FACTOR},
    threads: rows,
  });
  return y;
}

const filling = shader(() => ({
  name: 'Fill',
  outputs: {y: 'f32'},
  inputs: {},
  uniforms: {count: 'u32', value: 'f32'},
  workgroup: 64,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i < u.count) { y[i] = u.value; }`,
}));

/** Adds up all numbers. */
function sum(backend: WebGPUBackend, x: tf.TensorInfo): tf.TensorInfo {
  const y = backend.makeTensorInfo([], 'float32');
  runShader(backend, {
    shader: summation(),
    buffers: {y, x},
    uniforms: {count: tf.util.sizeFromShape(x.shape)},
  });
  return y;
}

const summation = shader(() => ({
  name: 'SumOfLosses',
  outputs: {y: 'f32'},
  inputs: {x: 'f32'},
  uniforms: {count: 'u32'},
  workgroup: 256,
  globals: sumOverWorkgroup(256),
  body: `
  var own = 0.0;
  for (var i = local; i < u.count; i += WORKGROUP) { own += x[i]; }
  let total = sumOverWorkgroup(own, local);
  if (local == 0u) { y[0] = total; }`,
}));

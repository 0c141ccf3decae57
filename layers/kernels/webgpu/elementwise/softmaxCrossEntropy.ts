import type * as tf from '@tensorflow/tfjs';
import {softmaxCrossEntropyOp} from '../../../ops/softmaxCrossEntropy.ts';
import {kernel} from '../../kernel.ts';
import {HALVES, HALVES_HEADER} from '../device/halves.ts';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {sumOverWorkgroup} from '../device/sumOverWorkgroup.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/** `SoftmaxCrossEntropy` (layers/ops/softmaxCrossEntropy.ts), a workgroup per row. */
export const softmaxCrossEntropy = kernel(softmaxCrossEntropyOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {logits, labels} = inputs;
  const [rows, vocab] = logits.shape;
  const losses = backend.makeTensorInfo([rows], 'float32');
  const gradient = backend.makeTensorInfo([rows, vocab], 'float32');
  if (rows === 0) return [losses, gradient];
  lossesOfRows(
    backend,
    {logits, labels, losses, ignoreIndex: attrs.ignoreIndex},
    {gradient, isPacked: false},
  );
  return [losses, gradient];
});

/** What the packed gradient is multiplied by: numbers between -1 and 1 then use most of float16's range. */
export const PACKED_GRADIENT_FACTOR = 2 ** 14;

/**
 * Computes the losses of rows, as `softmaxCrossEntropy` does. Rows with a negative label do not count either.
 *
 * @param given `logits` `[n, vocab]`, `labels` `[n]`, and `losses` `[n]`, which gets the result
 * @param wanted where the gradient of the logits goes: to float32 `[n, vocab]`, or as float16 to int32 `[n, vocab / 2]`,
 *   times {@link PACKED_GRADIENT_FACTOR}; `vocab` is then a multiple of 4. By default it is not computed
 */
export function lossesOfRows(
  backend: WebGPUBackend,
  {
    logits,
    labels,
    losses,
    ignoreIndex,
  }: Record<'logits' | 'labels' | 'losses', RowsView> & {ignoreIndex: number},
  wanted?: {gradient: tf.TensorInfo; isPacked: boolean},
): void {
  const [rows, vocab] = logits.shape;
  const width = vocab % 4 === 0 ? 4 : 1;
  runShader(backend, {
    shader: lossAndGradient(width, wanted !== undefined, wanted?.isPacked ?? false),
    buffers: {losses, gradient: wanted?.gradient, logits, labels},
    uniforms: {rows, vectors: vocab / width, ignoreIndex},
    workgroups: rows,
  });
}

/**
 * Reads the logits once: each thread keeps a running maximum and a sum relative to it. `width` is the number of logits
 * in a vector.
 */
const lossAndGradient = shader((width: 1 | 4, isWanted: boolean, isPacked: boolean) => {
  const isWide = width === 4;
  const type = isWide ? 'vec4f' : 'f32';
  const slopes = `
  let scale = select(0.0, 1.0 / total, isCounted);
  for (var c = local; c < u.vectors; c += WORKGROUP) {
    var slope = exp(logits[at + c] - top) * scale;
    if (isCounted && i32(c) == label / ${width}) { slope${isWide ? '[label % 4]' : ''} -= 1.0; }
    gradient[at + c] = ${isPacked ? `halved(slope * ${PACKED_GRADIENT_FACTOR}.0)` : 'slope'};
  }`;
  const sumOf = (v: string) => (isWide ? `dot(${v}, vec4f(1.0))` : v);
  return {
    name: 'SoftmaxCrossEntropy',
    outputs: {losses: 'f32', gradient: isWanted ? (isPacked ? 'vec2u' : type) : undefined},
    inputs: {logits: type, labels: 'i32'},
    uniforms: {rows: 'u32', vectors: 'u32', ignoreIndex: 'i32'},
    workgroup: 256,
    header: isPacked ? HALVES_HEADER : '',
    globals: `
${isPacked ? HALVES : ''}
var<workgroup> maxima: array<f32, WORKGROUP>;
${sumOverWorkgroup(256)}`,
    body: `
  let row = flatGroup;
  if (row >= u.rows) { return; }
  let at = row * u.vectors;
  var highest = -3.0e38;
  var sum = 0.0;
  for (var c = local; c < u.vectors; c += WORKGROUP) {
    let logit = logits[at + c];
    let most = ${isWide ? 'max(max(logit.x, logit.y), max(logit.z, logit.w))' : 'logit'};
    if (most > highest) {
      sum *= exp(highest - most);
      highest = most;
    }
    sum += ${sumOf('exp(logit - highest)')};
  }
  maxima[local] = highest;
  workgroupBarrier();
  for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
    if (local < width) { maxima[local] = max(maxima[local], maxima[local + width]); }
    workgroupBarrier();
  }
  let top = maxima[0];
  let total = sumOverWorkgroup(sum * exp(highest - top), local);
  let label = labels[row];
  let isCounted = label >= 0 && label != u.ignoreIndex;
  if (local == 0u) {
    let place = u32(max(label, 0));
    let logit = ${isWide ? 'logits[at + place / 4u][place % 4u]' : 'logits[at + place]'};
    losses[row] = select(0.0, log(total) + top - logit, isCounted);
  }
  ${isWanted ? slopes : ''}`,
  };
});

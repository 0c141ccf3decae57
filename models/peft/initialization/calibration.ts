import * as tf from '@tensorflow/tfjs';
import type {LoRADense} from '../../../layers/loraDense.ts';
import {flatten, onlyInput, unflatten} from '../../../layers/moduleLayer.ts';
import {customGradient} from '../../../layers/ops/customGradient.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {Batch} from '../../batch.ts';
import {toRows} from '../../batchLoss.ts';
import type {DenseValues} from '../denseValues.ts';

/** Bytes that what is measured in layers may take at a time; more layers are measured in further passes. */
const MOST_BYTES = 2 ** 29;

/** A model that can run batches, as every `CausalLM`. */
export interface CalibratedModel {
  readonly lm_head: tf.layers.Layer;
  forward(
    inputIds: tf.Tensor2D,
    options?: {attentionMask?: tf.Tensor2D; positionIds?: number[][]},
  ): tf.Tensor3D;
  logitsOf(hidden: tf.Tensor): tf.Tensor;
  lossSum(batch: Batch, options?: {training?: boolean; seed?: number}): tf.Scalar;
  targetCount(batch: Batch): number;
}

/** Rows of a batch as a forward pass takes them. */
type Rows = Pick<Batch, 'inputIds' | 'attentionMask' | 'positionIds'>;

/** @throws TfjsLoraError `UNSUPPORTED` for a model that is no language model */
export function assertCalibrated(model: object): asserts model is CalibratedModel {
  if ('lossSum' in model) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    'initializeLoRA batches: expected a language model to run them, got another',
  );
}

/** Splits layers into groups whose measurements take no more than {@link MOST_BYTES} together, or into single ones. */
export function measuredTogether<T>(layers: readonly T[], bytesOf: (layer: T) => number): T[][] {
  const groups: T[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const layer of layers) {
    bytes += bytesOf(layer);
    if (bytes > MOST_BYTES) {
      groups.push([]);
      bytes = bytesOf(layer);
    }
    groups.at(-1)!.push(layer);
  }
  return groups;
}

/**
 * Runs a function while calls of some layers go through `see`.
 *
 * @param see gets a layer's input `[N, inputDim]` and output `[N, units]`, and returns the output
 */
export function watching<R>(
  layers: readonly LoRADense[],
  see: (layer: LoRADense, x: tf.Tensor2D, y: tf.Tensor2D) => tf.Tensor2D,
  run: () => R,
): R {
  for (const layer of layers) {
    const call: LoRADense['call'] = (inputs, kwargs) => {
      const input = onlyInput(inputs);
      const y = Object.getPrototypeOf(layer).call.call(layer, inputs, kwargs) as tf.Tensor;
      return unflatten(see(layer, flatten(input, layer.base.inputDim), flatten(y, layer.base.units)), input);
    };
    Object.assign(layer, {call});
  }
  try {
    return run();
  } finally {
    for (const layer of layers) Reflect.deleteProperty(layer, 'call');
  }
}

/** Runs the model on rows, and the head only if it is among the layers. */
export function runRows(model: CalibratedModel, rows: Rows, layers: readonly LoRADense[]): void {
  tf.tidy(() => {
    const tensor = (key: 'inputIds' | 'attentionMask') =>
      tf.tensor2d(toRows(rows as Batch, key), undefined, 'int32');
    const hidden = model.forward(tensor('inputIds'), {
      attentionMask: rows.attentionMask && tensor('attentionMask'),
      positionIds: rows.positionIds && toRows(rows as Batch, 'positionIds'),
    });
    if (layers.some((layer) => layer === model.lm_head)) model.logitsOf(hidden);
  });
}

/** Yields the rows of batches one by one, without their padding. */
export function* samplesOf(batches: Iterable<Batch>): Generator<Rows> {
  for (const batch of batches) {
    const ids = toRows(batch, 'inputIds');
    const masks = batch.attentionMask && toRows(batch, 'attentionMask');
    const positions = batch.positionIds && toRows(batch, 'positionIds');
    for (const [index, row] of ids.entries()) {
      const real = (values: number[][]) => [values[index].filter((_, i) => masks?.[index][i] !== 0)];
      const [inputIds] = real(ids);
      if (inputIds.length === 0) continue;
      const isPadded = inputIds.length < row.length;
      yield {
        inputIds: [inputIds],
        ...(masks && {attentionMask: real(masks)}),
        ...(positions
          ? {positionIds: real(positions)}
          : isPadded && masks && {positionIds: real([...ids.keys()].map(() => [...row.keys()]))}),
      };
    }
  }
}

/**
 * Measures the second moments of layers' inputs, `Σ XᵀX / max(X)²` over the samples, divided by their number.
 *
 * @returns `[inputDim, inputDim]` for each layer, to be disposed
 */
export async function covariances(
  model: CalibratedModel,
  layers: readonly LoRADense[],
  batches: Iterable<Batch>,
  betweenSamples: () => Promise<void>,
): Promise<Map<LoRADense, tf.Tensor2D>> {
  const sums = new Map<LoRADense, tf.Tensor2D>();
  let samples = 0;
  for (const rows of samplesOf(batches)) {
    await betweenSamples().catch((error) => abandon(sums, error));
    samples++;
    // Parts of a sample, of which each layer may see several, are scaled by the maximum of all.
    const parts = new Map<LoRADense, {gram: tf.Tensor2D; max: tf.Scalar}>();
    watching(
      layers,
      (layer, x, y) => {
        const before = parts.get(layer);
        const [gram, max] = tf.tidy(() => {
          const own = tf.matMul(x, x, true) as tf.Tensor2D;
          const most = tf.max<tf.Scalar>(x);
          return before
            ? [tf.add<tf.Tensor2D>(before.gram, own), tf.maximum<tf.Scalar>(before.max, most)]
            : [own, most];
        });
        if (before) tf.dispose([before.gram, before.max]);
        parts.set(layer, {gram: tf.keep(gram as tf.Tensor2D), max: tf.keep(max as tf.Scalar)});
        return y;
      },
      () => runRows(model, rows, layers),
    );
    for (const [layer, {gram, max}] of parts) {
      const before = sums.get(layer);
      sums.set(
        layer,
        tf.tidy(() => {
          const scaled = tf.div<tf.Tensor2D>(gram, tf.square(max));
          return before ? tf.add<tf.Tensor2D>(before, scaled) : scaled;
        }),
      );
      tf.dispose([gram, max, ...(before ? [before] : [])]);
    }
  }
  for (const [layer, sum] of sums) {
    sums.set(layer, tf.div(sum, samples));
    sum.dispose();
  }
  return sums;
}

/**
 * Computes the gradient of the mean loss with respect to layers' base weights, averaged over batches.
 *
 * @returns `[units, inputDim]` for each layer, to be disposed
 */
export async function weightGradients(
  model: CalibratedModel,
  layers: readonly LoRADense[],
  adapterName: string,
  batches: Iterable<Batch>,
  betweenBatches: () => Promise<void>,
): Promise<Map<LoRADense, tf.Tensor2D>> {
  const sums = new Map<LoRADense, tf.Tensor2D>();
  let count = 0;
  // Backward reaches a layer's output because its adapter trains; with the weight 0 it computes what the base does.
  const adapters = layers.map((layer) => layer.adapter(adapterName));
  const weights = adapters.map(({weight}) => weight);
  const variables = adapters.map(({loraA}) => loraA.read());
  const add = (layer: LoRADense, gradient: tf.Tensor2D) => {
    const before = sums.get(layer);
    sums.set(layer, tf.keep(before ? tf.add<tf.Tensor2D>(before, gradient) : gradient.clone()));
    before?.dispose();
  };
  for (const batch of batches) {
    await betweenBatches().catch((error) => abandon(sums, error));
    const targets = model.targetCount(batch);
    if (targets === 0) continue;
    count++;
    try {
      for (const adapter of adapters) adapter.weight = 0;
      const {value, grads} = watching(
        layers,
        (layer, x, y) =>
          customGradient(
            [y],
            () => ({value: y.clone(), saved: [x]}),
            (dy, [kept]) => {
              add(layer, tf.matMul(dy as tf.Tensor2D, kept as tf.Tensor2D, true) as tf.Tensor2D);
              return [dy.clone()];
            },
          ),
        () => tf.variableGrads(() => tf.div(model.lossSum(batch, {training: true}), targets), variables),
      );
      tf.dispose([value, grads] as tf.TensorContainer);
    } finally {
      for (const [i, adapter] of adapters.entries()) adapter.weight = weights[i];
    }
  }
  for (const [layer, sum] of sums) {
    sums.set(layer, tf.div(sum, count));
    sum.dispose();
  }
  return sums;
}

/** Frees what was measured so far, and stops with the error. */
function abandon(sums: ReadonlyMap<LoRADense, tf.Tensor2D>, error: unknown): never {
  tf.dispose([...sums.values()]);
  throw error;
}

/** Reads a matrix back to the host and disposes it. */
export async function valuesOf(matrix: tf.Tensor2D): Promise<DenseValues> {
  const [rows, cols] = matrix.shape;
  const values = (await matrix.data()) as Float32Array;
  matrix.dispose();
  return {rows, cols, values};
}

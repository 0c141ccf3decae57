import * as tf from '@tensorflow/tfjs';
import {doraScale} from './dora.ts';
import type {LoRAAdapter} from './loraAdapter.ts';
import type {StoredMatrix} from './ops/storedMatrix.ts';
import {type RowPart, rowsOfPositions} from './rowsOfPositions.ts';

/**
 * The adapters of a batch's rows in one layer, stacked: each row multiplies by the matrices of all adapters, and what
 * belongs to the adapters of other rows is multiplied by 0. The shapes depend only on the adapters, so rows may change
 * places without new kernels.
 */
export interface RowFactors {
  /** The matrices A, `[Σ rank, inputDim]`. */
  a: tf.Tensor2D;
  /** The matrices B, `[units, Σ rank]`; DoRA's with its factor per output row. */
  b: tf.Tensor2D;
  /** The scaling of each row's adapter in the adapter's columns, 0 in the others, `[B, Σ rank]`. */
  scaling: tf.Tensor2D;
  /** DoRA's factor on the base product minus 1, for each row; 0 for rows without DoRA, `[B, units]`. */
  dora?: tf.Tensor2D;
  /** The scaled bias of each row's adapter, 0 for rows without one, `[B, units]`. */
  bias?: tf.Tensor2D;
}

/**
 * Stacks the adapters of a batch's rows.
 *
 * @param weight the base's weight
 * @param adapterOf the adapter of each row; undefined for the base alone
 * @returns undefined if no row has an adapter
 */
export function stackRowFactors(
  weight: StoredMatrix,
  adapterOf: readonly (LoRAAdapter | undefined)[],
): RowFactors | undefined {
  const adapters = [...new Set(adapterOf)].filter((adapter) => adapter !== undefined);
  if (adapters.length === 0) return undefined;
  return tf.tidy(() => {
    const stacked = adapters.map((adapter) => {
      const {magnitude, scaling} = adapter;
      const {a, b} = adapter.factors();
      if (!magnitude) return {a, b};
      const scale = doraScale(weight, a, b, scaling, magnitude.read()); // [units]
      return {a, b: tf.mul<tf.Tensor2D>(b, scale.expandDims(1)), dora: tf.sub(scale, 1)};
    });
    const scaling = adapterOf.map((own) =>
      adapters.flatMap((adapter, i) => Array(stacked[i].a.shape[0]).fill(adapter === own ? own.scaling : 0)),
    );
    const none = tf.zeros([weight.rows]);
    const biases = adapters.map(({bias, scaling}) => bias && tf.mul(bias.read(), scaling));
    const biasOf = adapterOf.map((own) => (own && biases[adapters.indexOf(own)]) ?? none);
    const doraOf = adapterOf.map((own) => (own && stacked[adapters.indexOf(own)].dora) ?? none);
    return {
      a: tf.concat(stacked.map(({a}) => a)) as tf.Tensor2D,
      b: tf.concat(
        stacked.map(({b}) => b),
        1,
      ) as tf.Tensor2D,
      scaling: tf.tensor2d(scaling),
      ...(doraOf.some((dora) => dora !== none) && {dora: tf.stack(doraOf) as tf.Tensor2D}),
      ...(biasOf.some((bias) => bias !== none) && {bias: tf.stack(biasOf) as tf.Tensor2D}),
    };
  });
}

/**
 * Adds each row's adapter to a linear layer's output.
 *
 * @param y the base's output, `[N, units]`; a batch's row has N / B of its rows
 * @param x `[N, inputDim]`
 * @param multiply computes `x · Wᵀ`, which DoRA scales
 * @param part which rows of the pass these are. Default: all
 * @returns `[N, units]`
 */
export function addRowFactors(
  y: tf.Tensor2D,
  x: tf.Tensor2D,
  {a, b, scaling, dora, bias}: RowFactors,
  multiply: (x: tf.Tensor2D) => tf.Tensor2D,
  part?: RowPart,
): tf.Tensor2D {
  const [[count], [batch]] = [x.shape, scaling.shape];
  const isWhole = count === batch && (part?.of ?? count) === batch; // without an upload, which cannot be recorded
  const rows = isWhole ? undefined : rowsOfPositions(count, batch, part);
  const spread = (table: tf.Tensor2D) => (rows ? tf.gather(table, rows) : table); // [N, …]
  const scaled = dora ? tf.add<tf.Tensor2D>(y, tf.mul(multiply(x), spread(dora))) : y;
  const low = tf.mul<tf.Tensor2D>(tf.matMul(x, a, false, true), spread(scaling)); // [N, Σ rank]
  const sum = tf.add<tf.Tensor2D>(scaled, tf.matMul(low, b, false, true));
  return bias ? tf.add(sum, spread(bias)) : sum;
}

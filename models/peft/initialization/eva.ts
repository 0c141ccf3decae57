import * as tf from '@tensorflow/tfjs';
import type {LoRADense} from '../../../layers/loraDense.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {Batch} from '../../batch.ts';
import {toRows} from '../../batchLoss.ts';
import {IGNORE_INDEX} from '../../ignoreIndex.ts';
import type {DenseValues} from '../denseValues.ts';
import {type CalibratedModel, measuredTogether, runRows, watching} from './calibration.ts';
import {IncrementalPca} from './incrementalPca.ts';

/** Settings of EVA, as PEFT's `EvaConfig`. */
export interface EvaConfig {
  /** Largest factor by which a layer's rank may grow; 1 keeps all ranks. Default 2. */
  rho?: number;
  /**
   * Cosine similarity of a component in two successive passes from which it counts as converged, 0 … 1. Default 0.99.
   */
  tau?: number;
  /** Whether to look only at positions whose label counts. Default true. */
  useLabelMask?: boolean;
  /**
   * Whether to divide components by the roots of their singular values. PEFT does it once for each of the layers with
   * equal inputs. Default false.
   */
  whiten?: boolean;
  /** Whether alphas change with the ranks, so that scales do not change. Default true. */
  adjustScalingFactors?: boolean;
}

export const EVA_DEFAULTS = {
  rho: 2,
  tau: 0.99,
  useLabelMask: true,
  whiten: false,
  adjustScalingFactors: true,
} satisfies Required<EvaConfig>;

/** A layer to initialize. */
export interface EvaLayer {
  layer: LoRADense;
  /** Its rank so far. */
  rank: number;
}

/** The new matrix A of a layer, `[rank, inputDim]`; the rank may be 0. */
export type EvaMatrices = Map<LoRADense, DenseValues>;

/** Statistics of the inputs of a layer. */
interface Watched {
  pca: IncrementalPca;
  converged: boolean[];
  isDone: boolean;
}

/**
 * Finds the principal components of layers' inputs and distributes the ranks by what they explain, as PEFT's
 * `get_eva_state_dict`. Paischer et al. 2024. The batches are repeated until the components that are used have converged.
 *
 * @param betweenPasses called with the number of layers that have converged
 */
export async function evaMatrices(
  model: CalibratedModel,
  targets: readonly EvaLayer[],
  batches: readonly Batch[],
  {rho, tau, useLabelMask, whiten}: Required<EvaConfig>,
  betweenPasses: (converged: LoRADense[]) => Promise<void>,
): Promise<EvaMatrices> {
  const layers = targets.map(({layer}) => layer);
  const most = new Map(targets.map(({layer, rank}) => [layer, roundHalfToEven(rank * rho)]));
  const budget = targets.reduce((sum, {rank}) => sum + rank, 0);
  const representative = await equalInputs(model, layers, batches[0], useLabelMask);
  for (const layer of layers) {
    const equal = layers.filter((other) => representative.get(other) === representative.get(layer));
    most.set(layer, Math.max(...equal.map((other) => most.get(other)!)));
  }
  const watched = new Map<LoRADense, Watched>();
  for (const layer of layers) {
    if (representative.get(layer) !== layer) continue;
    const count = most.get(layer)!;
    if (count > layer.base.inputDim)
      throw tooFew(layer, `rank · rho of at most its ${layer.base.inputDim} inputs`, count);
    watched.set(layer, {pca: new IncrementalPca(count), converged: Array(count).fill(false), isDone: false});
  }
  let ranks = new Map(most);
  for (let pass = 0; ; pass++) {
    for (const [layer, state] of watched)
      state.isDone = state.converged.slice(0, ranks.get(layer)).every(Boolean);
    await betweenPasses(layers.filter((layer) => watched.get(representative.get(layer)!)!.isDone));
    const open = [...watched].filter(([, {isDone}]) => !isDone).map(([layer]) => layer);
    if (open.length === 0) break;
    const untouched = [...watched].find(([, {pca}]) => pca.components.length === 0);
    if (pass >= batches.length && untouched)
      throw tooFew(
        untouched[0],
        `batches with at least ${untouched[1].pca.count} tokens that count`,
        'fewer',
      );
    const batch = batches[pass % batches.length];
    await eachInput(model, open, batch, useLabelMask, (layer, rows) => step(watched.get(layer)!, rows, tau));
    if ([...watched.values()].some(({pca}) => pca.components.length === 0)) continue;
    ranks = distribute(layers, watched, representative, most, budget);
  }
  return new Map(
    layers.map((layer) => {
      const {components, singularValues} = watched.get(representative.get(layer)!)!.pca;
      const rank = ranks.get(layer)!;
      const cols = layer.base.inputDim;
      const values = new Float32Array(rank * cols);
      for (let k = 0; k < rank; k++) {
        const factor = whiten ? 1 / Math.sqrt(singularValues[k]) : 1;
        for (let col = 0; col < cols; col++) values[k * cols + col] = factor * components[k][col];
      }
      return [layer, {rows: rank, cols, values}];
    }),
  );
}

function tooFew(layer: LoRADense, expected: string, got: unknown): TfjsLoraError {
  return new TfjsLoraError('INVALID_ARGUMENT', `eva for ${layer.name}: expected ${expected}, got ${got}`);
}

/** As Python rounds, on which the largest ranks depend. */
function roundHalfToEven(value: number): number {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/** Adds a batch's rows to a layer's components, and compares these with those before. */
function step(state: Watched, rows: DenseValues, tau: number): void {
  const {pca} = state;
  if (rows.rows < pca.count) return; // as in PEFT, too few rows are skipped
  const before = pca.components;
  pca.add(rows);
  if (before.length > 0) state.converged = pca.components.map((each, i) => dot(each, before[i]) >= tau);
}

const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, value, i) => sum + value * b[i], 0);

/** Gives the budget of ranks to the components that explain most, in all layers together. */
function distribute(
  layers: readonly LoRADense[],
  watched: ReadonlyMap<LoRADense, Watched>,
  representative: ReadonlyMap<LoRADense, LoRADense>,
  most: ReadonlyMap<LoRADense, number>,
  budget: number,
): Map<LoRADense, number> {
  const ordered = [...watched.keys(), ...layers.filter((layer) => !watched.has(layer))];
  const explained = ordered.flatMap((layer) => {
    const own = representative.get(layer)!;
    const ratios = watched.get(own)!.pca.explainedVarianceRatio.slice(0, most.get(own));
    return ratios.map((ratio) => ({layer, ratio}));
  });
  const ranks = new Map(layers.map((layer) => [layer, 0]));
  const best = explained.sort((a, b) => b.ratio - a.ratio).slice(0, budget);
  for (const {layer} of best) ranks.set(layer, ranks.get(layer)! + 1);
  for (const layer of layers) {
    const own = representative.get(layer)!;
    const [rank, ofOwn] = [ranks.get(layer)!, ranks.get(own)!];
    if (ofOwn >= rank) continue; // the layer that is watched gets the highest rank among those with equal inputs
    ranks.set(own, rank);
    ranks.set(layer, ofOwn);
  }
  return ranks;
}

/** Returns for each layer the first layer that gets equal inputs. */
async function equalInputs(
  model: CalibratedModel,
  layers: readonly LoRADense[],
  batch: Batch,
  useLabelMask: boolean,
): Promise<Map<LoRADense, LoRADense>> {
  const firsts: {layer: LoRADense; sums: number[]}[] = [];
  const representative = new Map<LoRADense, LoRADense>();
  await eachInput(model, layers, batch, useLabelMask, (layer, {rows, cols, values}) => {
    // Sums of the values and of their products with their places tell inputs apart.
    let [sum, weighted] = [0, 0];
    for (const [i, value] of values.entries()) {
      sum += value;
      weighted += value * (i % 8191);
    }
    const sums = [rows, cols, sum, weighted];
    const equal = firsts.find((first) => first.sums.every((value, i) => value === sums[i]));
    if (!equal) firsts.push({layer, sums});
    representative.set(layer, equal?.layer ?? layer);
  });
  return new Map(layers.map((layer) => [layer, representative.get(layer)!]));
}

/** Calls `visit` with the inputs of layers at a batch's positions that count, one layer after another. */
async function eachInput(
  model: CalibratedModel,
  layers: readonly LoRADense[],
  batch: Batch,
  useLabelMask: boolean,
  visit: (layer: LoRADense, rows: DenseValues) => void,
): Promise<void> {
  const counts = countedPositions(batch, useLabelMask);
  const groups = measuredTogether(layers, ({base}) => 4 * counts.length * base.inputDim);
  for (const group of groups) {
    const parts = new Map<LoRADense, tf.Tensor2D[]>(group.map((layer) => [layer, []]));
    watching(
      group,
      (layer, x, y) => {
        parts.get(layer)!.push(tf.keep(x.clone()));
        return y;
      },
      () => runRows(model, batch, group),
    );
    for (const [layer, inputs] of parts) {
      const {inputDim: cols} = layer.base;
      const read = await Promise.all(inputs.map((input) => input.data()));
      tf.dispose(inputs);
      const kept: number[] = [];
      for (const [position, does] of counts.entries()) if (does) kept.push(position);
      const all = Float32Array.from({length: counts.length * cols});
      let at = 0;
      for (const part of read) {
        all.set(part as Float32Array, at);
        at += part.length;
      }
      const values = new Float32Array(kept.length * cols);
      for (const [row, position] of kept.entries())
        values.set(all.subarray(position * cols, (position + 1) * cols), row * cols);
      visit(layer, {rows: kept.length, cols, values});
    }
  }
}

/** Returns whether each position of a batch counts, row after row. */
function countedPositions(batch: Batch, useLabelMask: boolean): boolean[] {
  const masks = batch.attentionMask && toRows(batch, 'attentionMask');
  const labels = useLabelMask && batch.labels ? toRows(batch, 'labels') : undefined;
  return toRows(batch, 'inputIds').flatMap((row, r) =>
    row.map((_, i) => (masks?.[r][i] ?? 1) !== 0 && labels?.[r][i] !== IGNORE_INDEX),
  );
}

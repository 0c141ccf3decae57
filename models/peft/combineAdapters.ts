import seedrandom from 'seedrandom';
import {DEFAULT_ADAPTER} from '../../layers/adapter.ts';
import {LoRAAdapter} from '../../layers/loraAdapter.ts';
import {LoRADense} from '../../layers/loraDense.ts';
import type {Parameter} from '../../layers/parameter.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import {show} from '../../quant/show.ts';
import {assertIdle, type BusyModel} from '../assertIdle.ts';
import {LAYER_WATCH_OPTIONS, type LayerWatch} from '../layerWatch.ts';
import {letSignalsThrough} from '../letSignalsThrough.ts';
import type {AdapterSet} from './adapterSet.ts';
import {addProduct, type DenseValues, joined, stacked} from './denseValues.ts';
import type {LoRAOptions} from './loraOptions.ts';
import {ARITHMETICS, type Arithmetic, type MajoritySign, taskArithmetic} from './taskArithmetic.ts';
import {truncatedSvd} from './truncatedSvd.ts';

/**
 * How adapters are combined, with the names of PEFT's `add_weighted_adapter`. `cat` is exact, with the sum of the
 * ranks. `svd` is the nearest update of its rank. `linear`, `ties`, `dare_…` and `magnitude_prune` add up the matrices
 * A and B by themselves and need equal ranks; with `_svd`, they add up the updates `B · A` and approximate the sum.
 */
export type CombinationType = 'cat' | 'svd' | Arithmetic | `${Exclude<Arithmetic, 'linear'>}_svd`;

export interface CombineAdaptersOptions extends LayerWatch {
  /** Name of the new adapter. Default `default`. */
  adapterName?: string;
  /** Default `svd`, as in PEFT. A single adapter is always scaled (`linear`). */
  combinationType?: CombinationType;
  /** Rank of the new adapter for `svd` and the types with `_svd`. Default: the largest rank of the adapters. */
  svdRank?: number;
  /**
   * For `svd` and the types with `_svd`: share of the elements of A and B, 0 … 1, that are at most as large as the bound to
   * which all elements are then clamped. PEFT's `svd_clamp`, which leaves the signs of singular vectors to its routine; here
   * the largest element of each column of B is positive. Default: no clamping.
   */
  svdClamp?: number;
  /** Share of the elements to keep, 0 < density ≤ 1. TIES, DARE and `magnitude_prune` require it. */
  density?: number;
  /** How TIES elects the sign of an element. Default `total`. */
  majoritySign?: MajoritySign;
  /** Seed of DARE's random masks. Default 0. */
  seed?: number;
}
export const COMBINE_ADAPTERS_OPTIONS = {
  adapterName: true,
  combinationType: true,
  svdRank: true,
  svdClamp: true,
  density: true,
  majoritySign: true,
  seed: true,
  ...LAYER_WATCH_OPTIONS,
} satisfies OptionNames<CombineAdaptersOptions>;

const TYPES: readonly string[] = [
  'cat',
  'svd',
  ...ARITHMETICS,
  ...ARITHMETICS.filter((name) => name !== 'linear').map((name) => `${name}_svd`),
];

/** An adapter's matrices in one layer, read to the host. */
interface Factors {
  /** `[rank, inputDim]`. */
  a: DenseValues;
  /** `[units, rank]`. */
  b: DenseValues;
  /** The adapter's own factor on `B · A`. */
  scale: number;
  /** Its weight in the combination. */
  weight: number;
}

/** An adapter in one layer, and its weight in the combination. */
interface Weighted {
  adapter: LoRAAdapter;
  weight: number;
}

/** The combined matrices of one layer. */
type Combined = Pick<Factors, 'a' | 'b'>;

/** Adds an adapter that is a combination of others; see `combineAdapters` of a model. */
export async function combineAdapters(
  model: BusyModel,
  adapters: AdapterSet,
  weights: Record<string, number>,
  options: CombineAdaptersOptions = {},
): Promise<void> {
  assertKnownOptions('combineAdapters', options, COMBINE_ADAPTERS_OPTIONS);
  const {adapterName = DEFAULT_ADAPTER, signal, onProgress} = options;
  const names = Object.keys(weights);
  assertWeights(weights, adapters);
  const combine = combination(names.length === 1 ? {...options, combinationType: 'linear'} : options);
  const layers = [...adapters.lowRank()].filter(([, layer]) =>
    names.some((name) => layer.adapters.has(name)),
  );
  const whole = [...adapters.layers().values()].find(
    (layer) => !(layer instanceof LoRADense) && names.some((name) => layer.adapters.has(name)),
  );
  if (whole) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `combineAdapters: expected adapters of linear layers alone, got one that also trains ${whole.name}`,
    );
  }
  const withBiases = names.find((name) => adapters.biasLayers(name).length > 0);
  if (withBiases !== undefined) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `combineAdapters: expected adapters with bias none, got "${withBiases}", which trains biases of the base`,
    );
  }
  const first = adapters.options(names[0]);
  // all at first: adapters may be renamed while matrices are read
  const weighted = layers.map(([layerName, layer]) => [layerName, weightedOf(layer, weights)] as const);
  const combined = new Map<string, Combined>();
  for (const [layerName, each] of weighted) {
    await letSignalsThrough(signal);
    combined.set(layerName, combine(await Promise.all(each.map(factorsOf)), layerName));
    onProgress?.({layer: layerName, done: combined.size, total: layers.length});
  }
  assertIdle(model, 'combineAdapters'); // checked again, because a training may have begun meanwhile
  adapters.add({...optionsOf(first, combined), adapterName}, () => {
    for (const [layerName, {a, b}] of combined) {
      const {loraA, loraB} = adapters.lowRank().get(layerName)!.adapter(adapterName);
      fill(loraA, a.values);
      fill(loraB, b.values);
    }
  });
  for (const layer of adapters.lowRank().values()) {
    const adapter = layer.adapters.get(adapterName);
    if (adapter) adapter.trainable = false;
  }
}

function fill(parameter: Parameter, {buffer, byteOffset, byteLength}: Float32Array): void {
  parameter.load(new Uint8Array(buffer, byteOffset, byteLength), 'F32');
}

function invalid(what: string, expected: string, got: unknown): TfjsLoraError {
  return new TfjsLoraError(
    'INVALID_ARGUMENT',
    `combineAdapters ${what}: expected ${expected}, got ${show(got)}`,
  );
}

function assertWeights(weights: Record<string, number>, adapters: AdapterSet): void {
  if (Object.keys(weights).length === 0) throw invalid('weights', 'a weight for each adapter', weights);
  for (const [name, weight] of Object.entries(weights)) {
    adapters.options(name); // throws for an unknown name
    if (!Number.isFinite(weight)) throw invalid(`weight of "${name}"`, 'a number', weight);
  }
}

/** Returns the weighted adapters that a layer has. */
function weightedOf(layer: LoRADense, weights: Record<string, number>): Weighted[] {
  return Object.entries(weights).flatMap(([name, weight]) => {
    const adapter = layer.adapters.get(name);
    if (!adapter) return [];
    const {useDoRA, loraBias} = adapter.settings;
    const {peftType} = layer.adapterClass;
    if (useDoRA || loraBias || peftType !== LoRAAdapter.peftType) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `combineAdapters "${name}" of ${layer.name}: expected a LoRA without other weights than A and B, got ` +
          `${useDoRA ? "DoRA, whose magnitudes belong to one adapter's directions" : loraBias ? 'loraBias' : peftType}. ` +
          'Merge such adapters into the base one after another instead.',
      );
    }
    return {adapter, weight};
  });
}

async function factorsOf({adapter, weight}: Weighted): Promise<Factors> {
  const [a, b] = await Promise.all([valuesOf(adapter.loraA), valuesOf(adapter.loraB)]);
  return {a, b, scale: adapter.ownScaling, weight};
}

async function valuesOf(parameter: Parameter): Promise<DenseValues> {
  const [rows, cols] = parameter.logicalShape;
  return {rows, cols, values: (await parameter.read().data()) as Float32Array};
}

/** Checks the options, and returns the function that combines the adapters of one layer. */
function combination(options: CombineAdaptersOptions): (factors: Factors[], layer: string) => Combined {
  const {
    combinationType: type = 'svd',
    svdRank,
    svdClamp,
    density,
    majoritySign = 'total',
    seed = 0,
  } = options;
  if (!TYPES.includes(type)) throw invalid('combinationType', TYPES.join(', '), type);
  if (majoritySign !== 'total' && majoritySign !== 'frequency')
    throw invalid('majoritySign', 'total or frequency', majoritySign);
  if (svdRank !== undefined && !(Number.isInteger(svdRank) && svdRank > 0))
    throw invalid('svdRank', 'a positive integer', svdRank);
  if (svdClamp !== undefined && !(svdClamp >= 0 && svdClamp <= 1))
    throw invalid('svdClamp', 'a number from 0 to 1', svdClamp);
  if (svdClamp !== undefined && !type.endsWith('svd'))
    throw invalid(`svdClamp with ${type}`, 'none', svdClamp);
  const arithmetic = (type === 'svd' ? 'linear' : type.replace('_svd', '')) as Arithmetic;
  const needsDensity = type !== 'cat' && arithmetic !== 'linear';
  if (needsDensity && !(density !== undefined && density > 0 && density <= 1))
    throw invalid(`density for ${type}`, 'a number above 0 and at most 1', density);
  const random = seedrandom(String(seed));
  const add = (tensors: Float32Array[], weights: number[]) =>
    taskArithmetic(tensors, weights, {arithmetic, density: density ?? 1, majoritySign, random});
  if (type === 'cat') return concatenate;
  if (!type.endsWith('svd'))
    return (factors, layer) => addFactors(assertEqualRanks(factors, layer, type), add);
  return (factors, layer) => {
    const nearest = approximate(factors, add, svdRank ?? Math.max(...factors.map(({a}) => a.rows)));
    return svdClamp === undefined ? nearest : clamped(nearest, svdClamp, layer);
  };
}

/** Adds up tensors with a weight each. */
type Add = (tensors: Float32Array[], weights: number[]) => Float32Array;

/** The update of the new adapter is exactly the weighted sum of the updates. */
function concatenate(factors: Factors[]): Combined {
  const weighted = factors.map(({a, scale, weight}) => {
    return {...a, values: a.values.map((value) => value * weight * scale)};
  });
  return {a: stacked(weighted), b: joined(factors.map(({b}) => b))};
}

/** Adds up the matrices A, and the matrices B. Each gets the root of the factor, and A its sign. */
function addFactors(factors: Factors[], add: Add): Combined {
  const roots = factors.map(({scale, weight}) => Math.sqrt(Math.abs(scale * weight)));
  const signed = factors.map(({scale, weight}, i) => (scale * weight < 0 ? -roots[i] : roots[i]));
  const sum = (matrices: DenseValues[], weights: number[]): DenseValues => {
    return {
      ...matrices[0],
      values: add(
        matrices.map(({values}) => values),
        weights,
      ),
    };
  };
  return {
    a: sum(
      factors.map(({a}) => a),
      signed,
    ),
    b: sum(
      factors.map(({b}) => b),
      roots,
    ),
  };
}

/** Adds up the updates `scale · B · A`, and returns the nearest matrix of a rank. */
function approximate(factors: Factors[], add: Add, wanted: number): Combined {
  const [rows, cols] = [factors[0].b.rows, factors[0].a.cols];
  const values = add(
    factors.map(updateOf),
    factors.map(({weight}) => weight),
  );
  const {u, s, v} = truncatedSvd({rows, cols, values}, wanted);
  const rank = s.length;
  const b = Float32Array.from(
    {length: rows * rank},
    (_, i) => u[i % rank][Math.floor(i / rank)] * s[i % rank],
  );
  const a = Float32Array.from({length: rank * cols}, (_, i) => v[Math.floor(i / cols)][i % cols]);
  return {a: {rows: rank, cols, values: a}, b: {rows, cols: rank, values: b}};
}

/** Clamps A and B to the quantile of all their elements. */
function clamped({a, b}: Combined, quantile: number, layer: string): Combined {
  const signs = columnSigns(b);
  const rows = {...a, values: a.values.map((value, i) => value * signs[Math.floor(i / a.cols)])};
  const columns = {...b, values: b.values.map((value, i) => value * signs[i % b.cols])};
  const sorted = Float32Array.from([...columns.values, ...rows.values]).sort();
  const place = quantile * (sorted.length - 1);
  const below = sorted[Math.floor(place)];
  const bound = below + (place % 1) * (sorted[Math.ceil(place)] - below);
  if (!(bound > 0)) throw invalid(`svdClamp of ${layer}`, 'a share with a bound above 0', quantile);
  const within = (matrix: DenseValues) => {
    return {...matrix, values: matrix.values.map((value) => Math.max(-bound, Math.min(bound, value)))};
  };
  return {a: within(rows), b: within(columns)};
}

/** Returns 1 or −1 for each column: the sign of its largest element. */
function columnSigns({rows, cols, values}: DenseValues): number[] {
  return Array.from({length: cols}, (_, col) => {
    let largest = 0;
    for (let row = 0; row < rows; row++) {
      const value = values[row * cols + col];
      if (Math.abs(value) > Math.abs(largest)) largest = value;
    }
    return largest < 0 ? -1 : 1;
  });
}

/** Returns `scale · B · A`, `[units, inputDim]`. */
function updateOf({a, b, scale}: Factors): Float32Array {
  const update = new Float32Array(b.rows * a.cols);
  addProduct(update, b, a, scale);
  return update;
}

function assertEqualRanks(factors: Factors[], layer: string, type: string): Factors[] {
  const ranks = new Set(factors.map(({a}) => a.rows));
  if (ranks.size === 1) return factors;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `combineAdapters ${type} of ${layer}: expected adapters of equal rank, got ${[...ranks].join(' and ')}. ` +
      'Use cat, svd or a type with _svd.',
  );
}

/** Returns the options of the new adapter, which has the scale 1 in every layer. */
function optionsOf(first: LoRAOptions, combined: Map<string, Combined>): LoRAOptions {
  const {dropout, init, layerClass, baseModelNameOrPath} = first;
  const ranks = Object.fromEntries([...combined].map(([name, {a}]) => [name, a.rows]));
  const rank = Math.max(...Object.values(ranks));
  const others = Object.fromEntries(Object.entries(ranks).filter(([, own]) => own !== rank));
  return {
    ...{dropout, init, layerClass, baseModelNameOrPath},
    rank,
    alpha: rank,
    targetModules: Object.keys(ranks),
    rankPattern: others,
    alphaPattern: others,
  };
}

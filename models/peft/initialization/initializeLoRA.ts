import * as tf from '@tensorflow/tfjs';
import {hashName} from '../../../layers/hashName.ts';
import {LoRAAdapter} from '../../../layers/loraAdapter.ts';
import type {LoRADense} from '../../../layers/loraDense.ts';
import {LoRAEmbedding} from '../../../layers/loraEmbedding.ts';
import {unpackMatrix} from '../../../layers/ops/unpackMatrix.ts';
import {QuantizedDense} from '../../../layers/quantizedDense.ts';
import {TiedHead} from '../../../layers/tiedHead.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import type {BusyModel} from '../../assertIdle.ts';
import {LAYER_WATCH_OPTIONS, type LayerWatch} from '../../layerWatch.ts';
import {letSignalsThrough} from '../../letSignalsThrough.ts';
import type {AdapterSet} from '../adapterSet.ts';
import {changesBase} from './changesBase.ts';
import {INITIALIZATIONS, type InitializationName, type InitialValues} from './initializations.ts';

export interface InitializeLoRAOptions extends LayerWatch {
  /**
   * PEFT's name in `init_lora_weights`. `pissa_niter_<n>`, which PEFT approximates, is computed exactly. `pissa`, `olora`
   * and `loftq` also change the base.
   */
  method: InitializationName | `pissa_niter_${number}`;
  /** Adapter to initialize. Default: the only active one, or `default`. */
  adapterName?: string;
  /** Bits that LoftQ rounds the base to: 4 (nf4, blocks of 64) or 8 (int8). Default 4. */
  loftqBits?: 4 | 8;
  /** Number of times that LoftQ quantizes and decomposes. Default 1. */
  loftqIterations?: number;
  /** Seed of `orthogonal`. Default 0. */
  seed?: number;
}
export const INITIALIZE_LORA_OPTIONS = {
  method: true,
  adapterName: true,
  loftqBits: true,
  loftqIterations: true,
  seed: true,
  ...LAYER_WATCH_OPTIONS,
} satisfies OptionNames<InitializeLoRAOptions>;

/** How the values of a file's adapter were initialized: its `init_lora_weights`, and the settings that belong to it. */
export type InitializedAs = Pick<InitializeLoRAOptions, 'method' | 'loftqBits' | 'loftqIterations'>;

/** Returns the initialization's name, or undefined for a name that PEFT has not or that is not implemented. */
export function initializationNamed(method: string): InitializationName | undefined {
  const name = /^pissa_niter_\d+$/.test(method) ? 'pissa' : method;
  return Object.hasOwn(INITIALIZATIONS, name) ? (name as InitializationName) : undefined;
}

/** Initializes an adapter from its base; see `initializeLoRA` of a model. */
export async function initializeLoRA(
  model: BusyModel,
  adapters: AdapterSet,
  options: InitializeLoRAOptions,
): Promise<void> {
  assertKnownOptions('initializeLoRA', options, INITIALIZE_LORA_OPTIONS);
  const {adapterName = adapters.sole('initializeLoRA')} = options;
  assertOptions(options);
  const earlier = adapters.initialized(adapterName)?.method;
  if (earlier !== undefined && changesBase(earlier))
    throw invalid(`adapter "${adapterName}"`, 'one that has not changed its base', earlier);
  model.busyWith = 'initializeLoRA';
  try {
    await initialize(adapters, adapterName, options, true);
  } finally {
    model.busyWith = undefined;
  }
}

/**
 * Changes the base as the initialization of a loaded adapter did, without changing the adapter.
 *
 * @throws TfjsLoraError, with nothing changed
 */
export async function changeBaseAs(
  model: BusyModel,
  adapters: AdapterSet,
  adapterName: string,
  how: InitializedAs,
  watch: LayerWatch,
): Promise<void> {
  if (layersOf(adapters, adapterName).some(({base}) => !base.weight.isAllocated)) {
    adapters.setInitialized(adapterName, {method: how.method, config: {}, initial: new Map()});
    return; // a model that is only counted or checked
  }
  model.busyWith = 'loadAdapter';
  try {
    await initialize(adapters, adapterName, {...how, ...watch}, false);
  } finally {
    model.busyWith = undefined;
  }
}

/** Computes the first values for all layers, and then sets them, so that a failure changes nothing. */
async function initialize(
  adapters: AdapterSet,
  adapterName: string,
  options: InitializeLoRAOptions,
  writesFactors: boolean,
): Promise<void> {
  const {method, loftqBits = 4, loftqIterations = 1, seed = 0, signal, onProgress} = options;
  const layers = layersOf(adapters, adapterName);
  for (const layer of layers) assertInitializable(layer, adapterName, method);
  const isLikePeft = ['pissa', 'olora'].includes(initializationNamed(method)!); // which leaves embeddings as they are
  for (const [name, layer] of adapters.layers())
    if (layer instanceof LoRAEmbedding && layer.adapters.has(adapterName) && !isLikePeft)
      throw invalid(
        `${method} for ${name}`,
        'a linear layer',
        'an embedding. Leave it out of targetModules.',
      );
  const compute = INITIALIZATIONS[initializationNamed(method)!];
  const computed = new Map<LoRADense, InitialValues>();
  for (const layer of layers) {
    await letSignalsThrough(signal);
    const {settings, ownScaling} = layer.adapter(adapterName);
    const own = {
      rank: settings.rank,
      scaling: ownScaling,
      seed: seed + hashName(`${layer.name}.${adapterName}`),
    };
    computed.set(layer, compute(await weightOf(layer), {...own, loftqBits, loftqIterations}));
    onProgress?.({layer: layer.name, done: computed.size, total: layers.length});
  }
  const initial = new Map<string, InitialValues>();
  for (const [layer, values] of computed) {
    const {loraA, loraB, ownScaling} = layer.adapter(adapterName);
    tf.tidy(() => {
      const a = tf.tensor2d(values.a, loraA.logicalShape as [number, number]);
      const b = tf.tensor2d(values.b, loraB.logicalShape as [number, number]);
      if (writesFactors)
        for (const [parameter, value] of [
          [loraA, a],
          [loraB, b],
        ] as const)
          parameter.write(value);
      changeBase(layer, values, () => tf.mul(tf.matMul(b, a), ownScaling));
    });
    if (values.base === 'residual') initial.set(layer.name, values);
  }
  const config = initializationNamed(method) === 'loftq' && {
    loftq_config: {loftq_bits: loftqBits, loftq_iter: loftqIterations},
  };
  adapters.setInitialized(adapterName, {method, initial, config: {...config}});
}

function changeBase({base: {weight}}: LoRADense, {base}: InitialValues, update: () => tf.Tensor2D): void {
  if (base === undefined) return;
  const shape = weight.logicalShape as [number, number];
  const value =
    base === 'residual'
      ? tf.sub(unpackMatrix(weight.matrix()), update())
      : tf.tensor2d(base.dequantize(), shape);
  weight.write(weight.stored(value));
}

async function weightOf({base}: LoRADense) {
  const matrix = tf.tidy(() => unpackMatrix(base.weight.matrix()));
  const values = (await matrix.data()) as Float32Array;
  matrix.dispose();
  return {rows: base.units, cols: base.inputDim, values};
}

const layersOf = (adapters: AdapterSet, adapterName: string): LoRADense[] =>
  [...adapters.lowRank().values()].filter((layer) => layer.adapters.has(adapterName));

function invalid(what: string, expected: string, got: unknown): TfjsLoraError {
  return new TfjsLoraError(
    'INVALID_ARGUMENT',
    `initializeLoRA ${what}: expected ${expected}, got ${show(got)}`,
  );
}

function assertOptions({method, loftqBits, loftqIterations}: InitializeLoRAOptions): void {
  if (typeof method !== 'string' || !initializationNamed(method)) {
    const names = [...Object.keys(INITIALIZATIONS), 'pissa_niter_<n>'];
    throw invalid('method', names.join(', '), method);
  }
  if (loftqBits !== undefined && loftqBits !== 4 && loftqBits !== 8)
    throw invalid('loftqBits', '4 or 8', loftqBits);
  if (loftqIterations !== undefined && !(Number.isInteger(loftqIterations) && loftqIterations > 0))
    throw invalid('loftqIterations', 'a positive integer', loftqIterations);
}

/** Refuses a layer whose base or whose other adapters the method would spoil. */
function assertInitializable(layer: LoRADense, adapterName: string, method: string): void {
  const where = `${method} for adapter "${adapterName}" of ${layer.name}`;
  const refuse = (expected: string, got: string) =>
    new TfjsLoraError('UNSUPPORTED', `${where}: expected ${expected}, got ${got}`);
  const {peftType} = layer.adapterClass;
  if (peftType !== LoRAAdapter.peftType) throw refuse('an adapter of LoRA', peftType);
  if (layer.isMerged) throw refuse('unmerged weights', 'merged ones. Call unmergeLoRA() first.');
  if (layer.base instanceof TiedHead && changesBase(method))
    throw refuse('a head with a table of its own, because the base changes', 'one that the embedding shares');
  if (layer.base instanceof QuantizedDense && method !== 'orthogonal') {
    const advice = 'Load the model unquantized, and call quantize() afterwards.';
    throw refuse('a base that is not quantized', `${layer.base.weight.quantType}. ${advice}`);
  }
  const others = [...layer.adapters.keys()].filter((name) => name !== adapterName);
  if (changesBase(method) && others.length > 0)
    throw refuse('no other adapter, because the base changes', `${others.join(', ')}. Delete them first.`);
  const {rank, freezeB, loraBias} = layer.adapter(adapterName).settings;
  if (loraBias) throw refuse('an adapter without loraBias', 'one with it');
  if (method === 'mica' && !freezeB)
    throw refuse('applyLoRA({freezeB: true}), because only A trains', 'freezeB: false');
  if (method === 'orthogonal' && rank % 2 !== 0) throw refuse('an even rank', String(rank));
}

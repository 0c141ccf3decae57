import * as tf from '@tensorflow/tfjs';
import {hashName} from '../../../layers/hashName.ts';
import {LoRAAdapter} from '../../../layers/loraAdapter.ts';
import type {LoRADense} from '../../../layers/loraDense.ts';
import {LoRAEmbedding} from '../../../layers/loraEmbedding.ts';
import {unpackMatrix} from '../../../layers/ops/unpackMatrix.ts';
import {QuantizedDense} from '../../../layers/quantizedDense.ts';
import {TiedAdapter} from '../../../layers/tiedAdapter.ts';
import {TiedHead} from '../../../layers/tiedHead.ts';
import {assertFinite} from '../../../quant/assertFinite.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import type {BusyModel} from '../../assertIdle.ts';
import type {Batch} from '../../batch.ts';
import {IGNORE_INDEX} from '../../ignoreIndex.ts';
import {LAYER_WATCH_OPTIONS, type LayerWatch} from '../../layerWatch.ts';
import {letSignalsThrough} from '../../letSignalsThrough.ts';
import type {AdapterSet} from '../adapterSet.ts';
import {assertCalibrated, covariances, measuredTogether, valuesOf, weightGradients} from './calibration.ts';
import {changesBase, changesBaseByData} from './changesBase.ts';
import {CORDA_DEFAULTS, type CordaConfig, corda, oriented} from './corda.ts';
import {EVA_DEFAULTS, type EvaConfig, evaMatrices} from './eva.ts';
import {INITIALIZATIONS, type InitializationName, type InitialValues} from './initializations.ts';
import {
  assertGradientRank,
  LORA_GA_DEFAULTS,
  LORA_GA_DIRECTIONS,
  LORA_GA_SCALES,
  type LoraGAConfig,
  loraGA,
} from './loraGA.ts';
import {redistributeRanks} from './redistributeRanks.ts';

export interface InitializeLoRAOptions extends LayerWatch {
  /**
   * PEFT's name in `init_lora_weights`. `pissa_niter_<n>`, which PEFT approximates, is computed exactly. All but `eva`,
   * `orthogonal` and `mica` also change the base. `eva`, `corda` and `lora_ga` need `batches`.
   */
  method: InitializationName | `pissa_niter_${number}`;
  /**
   * What `eva`, `corda` and `lora_ga` measure: a few batches of the data that will be trained on, with their labels. The
   * rows of each are taken one by one for `corda`, and the mean loss of each for `lora_ga`. `eva` repeats them until its
   * components have converged.
   */
  batches?: Iterable<Batch>;
  /** Settings of `eva`. */
  evaConfig?: EvaConfig;
  /** Settings of `corda`. */
  cordaConfig?: CordaConfig;
  /** Settings of `lora_ga`. */
  loraGAConfig?: LoraGAConfig;
  /** Adapter to initialize. Default: the only active one, or `default`. */
  adapterName?: string;
  /** Bits that LoftQ rounds the base to: 4 (nf4, blocks of 64) or 8 (int8). Default 4. */
  loftqBits?: 4 | 8;
  /** Number of times that LoftQ quantizes and decomposes. Default 1. */
  loftqIterations?: number;
  /** Seed of `orthogonal`, and of `lora_ga` with random directions. Default 0. */
  seed?: number;
}
export const INITIALIZE_LORA_OPTIONS = {
  method: true,
  batches: true,
  evaConfig: EVA_DEFAULTS,
  cordaConfig: CORDA_DEFAULTS,
  loraGAConfig: LORA_GA_DEFAULTS,
  adapterName: true,
  loftqBits: true,
  loftqIterations: true,
  seed: true,
  ...LAYER_WATCH_OPTIONS,
} satisfies OptionNames<InitializeLoRAOptions>;

/** How the values of a file's adapter were initialized: its `init_lora_weights`, and the settings that belong to it. */
export type InitializedAs = Pick<InitializeLoRAOptions, 'method' | 'loftqBits' | 'loftqIterations'>;

/** The first matrices of layers by their names, where no file of the adapter itself says what the base gave up. */
export type FirstMatrices = ReadonlyMap<string, {a: Float32Array; b: Float32Array}>;

const NAMES: InitializationName[] = [
  ...(Object.keys(INITIALIZATIONS) as (keyof typeof INITIALIZATIONS)[]),
  'eva',
  'corda',
  'lora_ga',
];

/** Returns the initialization's name, or undefined for a name that PEFT has not or that is not implemented. */
export function initializationNamed(method: string): InitializationName | undefined {
  const name = /^pissa_niter_\d+$/.test(method) ? 'pissa' : method;
  return NAMES.find((known) => known === name);
}

/** Initializes an adapter from its base; see `initializeLoRA` of a model. */
export async function initializeLoRA(
  model: BusyModel,
  adapters: AdapterSet,
  given: InitializeLoRAOptions,
): Promise<void> {
  assertKnownOptions('initializeLoRA', given, INITIALIZE_LORA_OPTIONS);
  const options = {...given, batches: given.batches && [...given.batches]};
  const {adapterName = adapters.sole('initializeLoRA')} = options;
  assertOptions(options);
  const earlier = adapters.initialized(adapterName)?.method;
  if (earlier !== undefined && changesBase(earlier))
    throw invalid(`adapter "${adapterName}"`, 'one that has not changed its base', earlier);
  model.busyWith = 'initializeLoRA';
  try {
    if (options.method === 'eva') await initializeEva(model, adapters, adapterName, options);
    else {
      const compute = initialValues(model, adapterName, options);
      await initialize(adapters, adapterName, options, compute, true);
    }
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
  first?: FirstMatrices,
): Promise<void> {
  if (layersOf(adapters, adapterName).some(({base}) => !base.weight.isAllocated)) {
    adapters.setInitialized(adapterName, {method: how.method, config: {}, initial: new Map()});
    return; // a model that is only counted or checked
  }
  model.busyWith = 'loadAdapter';
  try {
    const given: Compute | undefined =
      first &&
      async function* (layers) {
        for (const layer of layers) yield [layer, {...first.get(layer.name)!, base: 'residual'}];
      };
    const compute = given ?? initialValues(model, adapterName, how);
    await initialize(adapters, adapterName, {...how, ...watch}, compute, false);
  } finally {
    model.busyWith = undefined;
  }
}

/** Yields the first values of layers. */
type Compute = (layers: LoRADense[]) => AsyncGenerator<[layer: LoRADense, values: InitialValues]>;

/** Returns what computes the first values of layers by a method. */
function initialValues(model: BusyModel, adapterName: string, options: InitializeLoRAOptions): Compute {
  const {loftqBits = 4, loftqIterations = 1, seed = 0, signal} = options;
  const method = initializationNamed(options.method)!;
  const ownOf = (layer: LoRADense) => {
    const {settings, ownScaling} = layer.adapter(adapterName);
    const ownSeed = seed + hashName(`${layer.name}.${adapterName}`);
    return {rank: settings.rank, scaling: ownScaling, seed: ownSeed};
  };
  const goOn = () => letSignalsThrough(signal);
  if (method === 'corda') {
    return async function* (layers) {
      assertCalibrated(model);
      const config = {...CORDA_DEFAULTS, ...options.cordaConfig};
      for (const group of measuredTogether(layers, ({base}) => 8 * base.inputDim ** 2)) {
        const measured = await covariances(model, group, options.batches!, goOn);
        try {
          for (const [layer, covariance] of measured) {
            await goOn();
            const product = await valuesOf(oriented(layer.base.weight.matrix(), covariance));
            assertFinite(product.values, `corda for ${layer.name}, the covariance of its inputs`);
            yield [layer, corda(await weightOf(layer), product, ownOf(layer), config)];
          }
        } finally {
          tf.dispose([...measured.values()]);
        }
      }
    };
  }
  if (method === 'lora_ga') {
    return async function* (layers) {
      assertCalibrated(model);
      const config = {...LORA_GA_DEFAULTS, ...options.loraGAConfig};
      for (const group of measuredTogether(layers, ({base}) => 8 * base.units * base.inputDim)) {
        const measured = await weightGradients(model, group, adapterName, options.batches!, goOn);
        try {
          if (measured.size < group.length) throw invalid('batches', 'labels that count', 'none');
          for (const [layer, gradient] of measured) {
            await goOn();
            const values = await valuesOf(gradient);
            assertFinite(values.values, `lora_ga for ${layer.name}, the gradient`);
            yield [layer, loraGA(await weightOf(layer), values, ownOf(layer), config)];
          }
        } finally {
          tf.dispose([...measured.values()]);
        }
      }
    };
  }
  const compute = INITIALIZATIONS[method as keyof typeof INITIALIZATIONS];
  return async function* (layers) {
    for (const layer of layers) {
      await goOn();
      yield [layer, compute(await weightOf(layer), {...ownOf(layer), loftqBits, loftqIterations})];
    }
  };
}

/** Finds the principal components of the inputs, and gives each layer as many as explain most there. */
async function initializeEva(
  model: BusyModel,
  adapters: AdapterSet,
  adapterName: string,
  options: InitializeLoRAOptions,
): Promise<void> {
  assertCalibrated(model);
  const {method, onProgress, signal} = options;
  const config = {...EVA_DEFAULTS, ...options.evaConfig};
  const layers = layersOf(adapters, adapterName);
  for (const layer of layers) assertInitializable(layer, adapterName, method);
  if (adapters.names.length > 1)
    throw invalid('adapterName', 'the only adapter, as in PEFT', adapters.names.join(', '));
  const reported = new Set<LoRADense>();
  const targets = layers.map((layer) => ({layer, rank: layer.adapter(adapterName).settings.rank}));
  const matrices = await adapters.with([], () =>
    evaMatrices(model, targets, [...options.batches!], config, async (converged) => {
      await letSignalsThrough(signal);
      for (const layer of converged) {
        if (reported.has(layer)) continue;
        reported.add(layer);
        onProgress?.({layer: layer.name, done: reported.size, total: layers.length});
      }
    }),
  );
  redistributeRanks(
    adapters,
    adapterName,
    new Map([...matrices].map(([{name}, {rows}]) => [name, rows])),
    config.adjustScalingFactors,
  );
  for (const {name} of layers) {
    const adapted = adapters.lowRank().get(name);
    if (!adapted) continue; // its rank is 0
    const {values} = [...matrices].find(([layer]) => layer.name === name)![1];
    const {loraA} = adapted.adapter(adapterName);
    const matrix = tf.tensor2d(values, loraA.logicalShape as [number, number]);
    loraA.write(matrix);
    matrix.dispose();
  }
  adapters.setInitialized(adapterName, {
    method,
    initial: new Map(),
    config: {
      init_lora_weights: method,
      eva_config: {
        rho: config.rho,
        tau: config.tau,
        use_label_mask: config.useLabelMask,
        label_mask_value: IGNORE_INDEX,
        whiten: config.whiten,
        adjust_scaling_factors: config.adjustScalingFactors,
      },
    },
  });
}

/** Computes the first values for all layers, and then sets them, so that a failure changes nothing. */
async function initialize(
  adapters: AdapterSet,
  adapterName: string,
  options: InitializeLoRAOptions,
  compute: Compute,
  writesFactors: boolean,
): Promise<void> {
  const {method, onProgress} = options;
  const layers = layersOf(adapters, adapterName);
  for (const layer of layers) assertInitializable(layer, adapterName, method);
  if (adapters.model.replication && changesBase(method)) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${method} for adapter "${adapterName}": expected layers with weights of their own, because the base changes, got ` +
        'replicated ones, which share theirs',
    );
  }
  const isLikePeft = ['pissa', 'olora'].includes(initializationNamed(method)!); // which leaves embeddings as they are
  for (const [name, layer] of adapters.layers())
    if (layer instanceof LoRAEmbedding && layer.adapters.has(adapterName) && !isLikePeft)
      throw invalid(
        `${method} for ${name}`,
        'a linear layer',
        'an embedding. Leave it out of targetModules.',
      );
  const computed = new Map<LoRADense, InitialValues>();
  for await (const [layer, values] of compute(layers)) {
    computed.set(layer, values);
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
  const config = writesFactors ? {init_lora_weights: method, ...configOf(options)} : {}; // a file has its own
  adapters.setInitialized(adapterName, {method, initial, config});
}

/** Returns what an `adapter_config.json` says about an initialization besides its name. */
function configOf(options: InitializeLoRAOptions): Record<string, unknown> {
  const {loftqBits = 4, loftqIterations = 1} = options;
  const {cordaMethod} = {...CORDA_DEFAULTS, ...options.cordaConfig};
  const {direction, scale, stableGamma} = {...LORA_GA_DEFAULTS, ...options.loraGAConfig};
  switch (initializationNamed(options.method)) {
    case 'loftq':
      return {loftq_config: {loftq_bits: loftqBits, loftq_iter: loftqIterations}};
    case 'corda':
      return {
        corda_config: {
          cache_file: null,
          covariance_file: null,
          corda_method: cordaMethod,
          verbose: false,
          use_float16_for_covariance: false,
          prune_temporary_fields: true,
        },
      };
    case 'lora_ga':
      return {lora_ga_config: {direction, scale, stable_gamma: stableGamma}};
    default:
      return {};
  }
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

function assertOptions(options: InitializeLoRAOptions): void {
  const {method, batches, loftqBits, loftqIterations} = options;
  assertKnownOptions('initializeLoRA evaConfig', options.evaConfig, EVA_DEFAULTS);
  assertKnownOptions('initializeLoRA cordaConfig', options.cordaConfig, CORDA_DEFAULTS);
  assertKnownOptions('initializeLoRA loraGAConfig', options.loraGAConfig, LORA_GA_DEFAULTS);
  const name = typeof method === 'string' ? initializationNamed(method) : undefined;
  if (!name) throw invalid('method', [...NAMES, 'pissa_niter_<n>'].join(', '), method);
  const needsBatches = name === 'eva' || changesBaseByData(name);
  if (needsBatches && !(batches as Batch[] | undefined)?.length)
    throw invalid(
      'batches',
      `at least one batch for ${method}`,
      batches === undefined ? 'none' : 'an empty list',
    );
  if (!needsBatches && batches !== undefined) throw invalid('batches', `none for ${method}`, 'some');
  const {rho, tau} = {...EVA_DEFAULTS, ...options.evaConfig};
  if (!(rho >= 1)) throw invalid('evaConfig.rho', 'a number from 1', rho);
  if (!(tau >= 0 && tau <= 1)) throw invalid('evaConfig.tau', '0 … 1', tau);
  const {cordaMethod} = {...CORDA_DEFAULTS, ...options.cordaConfig};
  if (!['ipm', 'kpm'].includes(cordaMethod))
    throw invalid('cordaConfig.cordaMethod', 'ipm or kpm', cordaMethod);
  const {direction, scale, stableGamma} = {...LORA_GA_DEFAULTS, ...options.loraGAConfig};
  if (!Object.hasOwn(LORA_GA_DIRECTIONS, direction))
    throw invalid('loraGAConfig.direction', Object.keys(LORA_GA_DIRECTIONS).join(', '), direction);
  if (!LORA_GA_SCALES.includes(scale)) throw invalid('loraGAConfig.scale', LORA_GA_SCALES.join(', '), scale);
  if (!(stableGamma > 0)) throw invalid('loraGAConfig.stableGamma', 'a number above 0', stableGamma);
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
  if (layer.base instanceof QuantizedDense && method !== 'orthogonal' && method !== 'eva') {
    const advice = 'Load the model unquantized, and call quantize() afterwards.';
    throw refuse('a base that is not quantized', `${layer.base.weight.quantType}. ${advice}`);
  }
  const others = [...layer.adapters.keys()].filter((name) => name !== adapterName);
  if (changesBase(method) && others.length > 0)
    throw refuse('no other adapter, because the base changes', `${others.join(', ')}. Delete them first.`);
  const adapter = layer.adapter(adapterName);
  if (adapter instanceof TiedAdapter)
    throw refuse(
      'an adapter with matrices of its own',
      "one that shares the embedding's (ensureWeightTying)",
    );
  const {rank, freezeB, loraBias} = adapter.settings;
  if (loraBias) throw refuse('an adapter without loraBias', 'one with it');
  if (method === 'mica' && !freezeB)
    throw refuse('applyLoRA({freezeB: true}), because only A trains', 'freezeB: false');
  if (method === 'lora_ga') assertGradientRank(rank, [layer.base.units, layer.base.inputDim], layer.name);
  if (method === 'orthogonal' && rank % 2 !== 0) throw refuse('an even rank', String(rank));
}

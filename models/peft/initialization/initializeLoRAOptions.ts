import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import type {Batch} from '../../batch.ts';
import {IGNORE_INDEX} from '../../ignoreIndex.ts';
import {LAYER_WATCH_OPTIONS, type LayerWatch} from '../../layerWatch.ts';
import {changesBaseByData} from './changesBase.ts';
import {CORDA_DEFAULTS, type CordaConfig} from './corda.ts';
import {EVA_DEFAULTS, type EvaConfig} from './eva.ts';
import {INITIALIZATIONS, type InitializationName} from './initializations.ts';
import {LORA_GA_DEFAULTS, LORA_GA_DIRECTIONS, LORA_GA_SCALES, type LoraGAConfig} from './loraGA.ts';

export interface InitializeLoRAOptions extends LayerWatch {
  /**
   * PEFT's name in `init_lora_weights`. `pissa_niter_<n>`, which PEFT approximates, is computed exactly. All methods
   * except `eva`, `orthogonal` and `mica` also change the base. `eva`, `corda` and `lora_ga` require `batches`.
   */
  method: InitializationName | `pissa_niter_${number}`;
  /**
   * The data that `eva`, `corda` and `lora_ga` measure: a few batches of the training data, with their labels. `corda`
   * uses the rows of each batch one by one, and `lora_ga` uses the mean loss of each batch. `eva` repeats the batches
   * until its components have converged.
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

const NAMES: InitializationName[] = [
  ...(Object.keys(INITIALIZATIONS) as (keyof typeof INITIALIZATIONS)[]),
  'eva',
  'corda',
  'lora_ga',
];

/** Returns the initialization's name, or undefined for a name that PEFT does not have or that is not implemented. */
export function initializationNamed(method: string): InitializationName | undefined {
  const name = /^pissa_niter_\d+$/.test(method) ? 'pissa' : method;
  return NAMES.find((known) => known === name);
}

/** @returns the refusal of an option or of what it finds */
export function wrongInitialization(what: string, expected: string, got: unknown): TfjsLoraError {
  return new TfjsLoraError(
    'INVALID_ARGUMENT',
    `initializeLoRA ${what}: expected ${expected}, got ${show(got)}`,
  );
}

/** @throws TfjsLoraError `INVALID_ARGUMENT` */
export function assertInitializeLoRAOptions(options: InitializeLoRAOptions): void {
  const {method, batches, loftqBits, loftqIterations} = options;
  assertKnownOptions('initializeLoRA evaConfig', options.evaConfig, EVA_DEFAULTS);
  assertKnownOptions('initializeLoRA cordaConfig', options.cordaConfig, CORDA_DEFAULTS);
  assertKnownOptions('initializeLoRA loraGAConfig', options.loraGAConfig, LORA_GA_DEFAULTS);
  const name = typeof method === 'string' ? initializationNamed(method) : undefined;
  if (!name) throw wrongInitialization('method', [...NAMES, 'pissa_niter_<n>'].join(', '), method);
  const needsBatches = name === 'eva' || changesBaseByData(name);
  if (needsBatches && !(batches as Batch[] | undefined)?.length)
    throw wrongInitialization(
      'batches',
      `at least one batch for ${method}`,
      batches === undefined ? 'none' : 'an empty list',
    );
  if (!needsBatches && batches !== undefined)
    throw wrongInitialization('batches', `none for ${method}`, 'some');
  const {rho, tau} = {...EVA_DEFAULTS, ...options.evaConfig};
  if (!(rho >= 1)) throw wrongInitialization('evaConfig.rho', 'a number from 1', rho);
  if (!(tau >= 0 && tau <= 1)) throw wrongInitialization('evaConfig.tau', '0 … 1', tau);
  const {cordaMethod} = {...CORDA_DEFAULTS, ...options.cordaConfig};
  if (!['ipm', 'kpm'].includes(cordaMethod))
    throw wrongInitialization('cordaConfig.cordaMethod', 'ipm or kpm', cordaMethod);
  const {direction, scale, stableGamma} = {...LORA_GA_DEFAULTS, ...options.loraGAConfig};
  if (!Object.hasOwn(LORA_GA_DIRECTIONS, direction))
    throw wrongInitialization(
      'loraGAConfig.direction',
      Object.keys(LORA_GA_DIRECTIONS).join(', '),
      direction,
    );
  if (!LORA_GA_SCALES.includes(scale))
    throw wrongInitialization('loraGAConfig.scale', LORA_GA_SCALES.join(', '), scale);
  if (!(stableGamma > 0))
    throw wrongInitialization('loraGAConfig.stableGamma', 'a number above 0', stableGamma);
  if (loftqBits !== undefined && loftqBits !== 4 && loftqBits !== 8)
    throw wrongInitialization('loftqBits', '4 or 8', loftqBits);
  if (loftqIterations !== undefined && !(Number.isInteger(loftqIterations) && loftqIterations > 0))
    throw wrongInitialization('loftqIterations', 'a positive integer', loftqIterations);
}

/** Returns the entries of an initialization in `adapter_config.json`. */
export function configOf(options: InitializeLoRAOptions): Record<string, unknown> {
  return {init_lora_weights: options.method, ...settingsOf(options)};
}

function settingsOf(options: InitializeLoRAOptions): Record<string, unknown> {
  const {loftqBits = 4, loftqIterations = 1} = options;
  const {cordaMethod} = {...CORDA_DEFAULTS, ...options.cordaConfig};
  const {direction, scale, stableGamma} = {...LORA_GA_DEFAULTS, ...options.loraGAConfig};
  const eva = {...EVA_DEFAULTS, ...options.evaConfig};
  switch (initializationNamed(options.method)) {
    case 'eva':
      return {
        eva_config: {
          rho: eva.rho,
          tau: eva.tau,
          use_label_mask: eva.useLabelMask,
          label_mask_value: IGNORE_INDEX,
          whiten: eva.whiten,
          adjust_scaling_factors: eva.adjustScalingFactors,
        },
      };
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

import * as tf from '@tensorflow/tfjs';
import {didYouMean, TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {Adafactor} from './adafactor.ts';
import {AdamW} from './adamW.ts';
import {AdamW8bit} from './adamW8bit.ts';
import {AdEMAMix} from './adEMAMix.ts';
import {DECOUPLED_DECAY_OPTIONS, type DecoupledDecayArgs} from './decoupledDecayOptimizer.ts';
import {Lion} from './lion.ts';
import {Lion8bit} from './lion8bit.ts';
import {Muon} from './muon.ts';
import {PagedAdamW} from './pagedAdamW.ts';
import {PagedAdamW8bit} from './pagedAdamW8bit.ts';
import {PagedAdEMAMix} from './pagedAdEMAMix.ts';
import {PagedLion} from './pagedLion.ts';
import {PagedLion8bit} from './pagedLion8bit.ts';
import {PAGED_OPTIONS, type PagedArgs} from './pagedStates.ts';

/** Settings for an optimizer chosen by name. An optimizer without `epsilon` or a memory budget ignores these two. */
export interface OptimizerSettings extends DecoupledDecayArgs, PagedArgs {
  epsilon?: number;
}
const OPTIMIZER_OPTIONS = {
  ...DECOUPLED_DECAY_OPTIONS,
  ...PAGED_OPTIONS,
  epsilon: true,
} satisfies OptionNames<OptimizerSettings>;

type OptimizerClass = (new (args: OptimizerSettings) => tf.Optimizer) & {readonly optionNames: object};

/**
 * Makes an optimizer from the settings that the user gave; the others are undefined. A setting that the optimizer does
 * not have is ignored, or refused if ignoring it would change the result.
 */
export type MakeOptimizer = (settings: OptimizerSettings) => tf.Optimizer;

/** Defaults of transformers' TrainingArguments, which it passes to Lion as well. */
const TRANSFORMERS = {
  learningRate: 5e-5,
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0,
};
const EPSILON = 1e-7; // Keras's

const asInTransformers =
  (Optimizer: OptimizerClass): MakeOptimizer =>
  (settings) =>
    make(Optimizer, {...TRANSFORMERS, ...settings});

/** Makes an optimizer with those of the settings that it has. */
function make(Optimizer: OptimizerClass, settings: OptimizerSettings): tf.Optimizer {
  const known = Object.entries(settings).filter(([name]) => Object.hasOwn(Optimizer.optionNames, name));
  return new Optimizer(Object.fromEntries(known));
}

/** Makes one of TensorFlow.js's own optimizers, whose only setting here is the learning rate. */
const ofTensorFlow =
  (name: string, defaultRate: number, make: (learningRate: number) => tf.Optimizer): MakeOptimizer =>
  ({learningRate = defaultRate, weightDecay = 0, loraPlusRatio = 1, learningRateFactors = []}) => {
    if (weightDecay === 0 && loraPlusRatio === 1 && learningRateFactors.length === 0)
      return make(learningRate);
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `optimizer "${name}": expected one learning rate and no weight decay, got weightDecay ${weightDecay}, ` +
        `loraPlusRatio ${loraPlusRatio}, ${learningRateFactors.length} learningRateFactors. Use adamw or lion.`,
    );
  };

const builtIn = {
  // Keras's names with Keras's defaults, and ours
  adamw: (settings) => make(AdamW, settings),
  lion: (settings) => make(Lion, settings),
  muon: (settings) => make(Muon, settings),
  sgd: ofTensorFlow('sgd', 0.01, tf.train.sgd),
  adam: ofTensorFlow('adam', 0.001, (rate) => tf.train.adam(rate, 0.9, 0.999, EPSILON)),
  adamax: ofTensorFlow('adamax', 0.002, (rate) => tf.train.adamax(rate, 0.9, 0.999, EPSILON, 0)),
  adagrad: ofTensorFlow('adagrad', 0.01, tf.train.adagrad),
  adadelta: ofTensorFlow('adadelta', 1, (rate) => tf.train.adadelta(rate, 0.95, EPSILON)),
  rmsprop: ofTensorFlow('rmsprop', 0.001, (rate) => tf.train.rmsprop(rate, 0.9, 0, EPSILON)),
  // transformers' names with transformers' defaults
  adamw_torch: asInTransformers(AdamW),
  adamw_torch_fused: asInTransformers(AdamW),
  adamw_8bit: asInTransformers(AdamW8bit),
  adamw_bnb_8bit: asInTransformers(AdamW8bit),
  paged_adamw_32bit: asInTransformers(PagedAdamW),
  paged_adamw_8bit: asInTransformers(PagedAdamW8bit),
  adafactor: asInTransformers(Adafactor),
  ademamix: asInTransformers(AdEMAMix),
  paged_ademamix_32bit: asInTransformers(PagedAdEMAMix),
  lion_32bit: asInTransformers(Lion),
  lion_8bit: asInTransformers(Lion8bit),
  paged_lion_32bit: asInTransformers(PagedLion),
  paged_lion_8bit: asInTransformers(PagedLion8bit),
} satisfies Record<string, MakeOptimizer>;

/** Names in transformers that this library lacks; such a name is not a typing mistake. */
const MISSING =
  /^(adamw_(anyprecision|apex_fused|torch_xla|torch_npu_fused|torch_4bit|torch_8bit)|(paged_)?ademamix_8bit|rmsprop_bnb.*|galore_.*|apollo_.*|lomo|adalomo|grokadamw|schedule_free_.*|stable_adamw)$/;

/** Names that `compile({optimizer})` accepts besides a `tf.Optimizer`; case does not matter. */
export type OptimizerName = keyof typeof builtIn | (string & {});

const optimizers = new Map<string, MakeOptimizer>(Object.entries(builtIn));

/**
 * Registers an optimizer under a name, for `compile({optimizer})`, {@link optimizerByName} and the `optim` of recipes.
 *
 * @param name any case; the built-in names and those of transformers do not change
 * @throws TfjsLoraError `INVALID_ARGUMENT` when the name is taken. Registering the same function again does nothing, so
 *   that a notebook's cell may run twice
 * @example
 * ```ts
 * import * as tf from '@tensorflow/tfjs';
 * import {registerOptimizer} from 'tfjs-lora/optimizers';
 *
 * registerOptimizer('plain_sgd', ({learningRate = 1e-3}) => tf.train.sgd(learningRate));
 * ```
 */
export function registerOptimizer(name: string, make: MakeOptimizer): void {
  const key = name.toLowerCase();
  if (optimizers.get(key) === make) return;
  if (!name || optimizers.has(key) || MISSING.test(key)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `registerOptimizer name: expected a new name, got '${name}', with ${optimizerNames().join(', ')} taken. ` +
        'Choose another.',
    );
  }
  optimizers.set(key, make);
}

/** Returns the names of all optimizers, in lower case, in the order of registration. */
export function optimizerNames(): string[] {
  return [...optimizers.keys()];
}

/**
 * Makes an optimizer by Keras's name or transformers' (`adamw_torch`, `paged_adamw_8bit`, …), with the defaults of the
 * library that the name comes from. Transformers' are learning rate 5e-5, β 0.9 and 0.999, no decay.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the nearest; `UNSUPPORTED` for one of transformers' that is missing
 *   here, or for a setting that the named one does not have
 */
export function optimizerByName(name: string, settings: OptimizerSettings = {}): tf.Optimizer {
  assertKnownOptions('optimizerByName', settings, OPTIMIZER_OPTIONS);
  const key = name.toLowerCase();
  const make = optimizers.get(key);
  if (make) return make(definedOf(settings));
  const known = optimizerNames();
  const isMissing = MISSING.test(key);
  throw new TfjsLoraError(
    isMissing ? 'UNSUPPORTED' : 'INVALID_ARGUMENT',
    `optimizer "${name}": expected a tf.Optimizer or one of ${known.join(', ')}.` +
      (isMissing
        ? ' This one is not supported: use adamw_torch, or paged_adamw_8bit if memory is short.'
        : `${didYouMean(key, known)} Add others with registerOptimizer.`),
  );
}

/** Removes undefined settings, which would hide a default. */
function definedOf(settings: OptimizerSettings): OptimizerSettings {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

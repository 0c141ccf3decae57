import * as tf from '@tensorflow/tfjs';
import {takesGradientFactor} from '../../../layers/ops/gradientFactor.ts';
import {optimizerUpdatesAtOnce} from '../../../layers/ops/optimizerUpdates.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownArgs, type OptionNames} from '../../../quant/knownOptions.ts';
import {NamedStateOptimizer, type VariableUpdate} from './namedStateOptimizer.ts';
import type {StateStore} from './stateStore.ts';

/** Part of a variable's name, or a regular expression to search in it. */
export type NamePattern = string | RegExp;

/** Settings that all {@link DecoupledDecayOptimizer}s share. */
export interface DecoupledDecayArgs {
  learningRate?: number;
  beta1?: number;
  beta2?: number;
  /** Decoupled weight decay: each step subtracts `learningRate · weightDecay` times a weight from it. */
  weightDecay?: number;
  /** Variables without weight decay. Default: none. */
  excludeFromWeightDecay?: NamePattern[];
  /** Factors on `learningRate` for some variables; the first pattern that matches a variable counts. Default: none. */
  learningRateFactors?: [variables: NamePattern, factor: number][];
  /**
   * LoRA+ (Hayou et al. 2024): factor on the learning rate of `lora_B` and, as in PEFT and LLaMA-Factory, of everything
   * with one dimension (DoRA's magnitudes, biases, norms). The paper advises 16 and a smaller `learningRate`. Default
   * 1.
   */
  loraPlusRatio?: number;
}
export const DECOUPLED_DECAY_OPTIONS = {
  learningRate: true,
  beta1: true,
  beta2: true,
  weightDecay: true,
  excludeFromWeightDecay: true,
  learningRateFactors: true,
  loraPlusRatio: true,
} satisfies OptionNames<DecoupledDecayArgs>;

type Settings = DecoupledDecayArgs & {learningRate: number; weightDecay: number};
type PatternConfig = string | {source: string; flags: string};

/**
 * Common base of AdamW, Lion and others: two decay rates of running means, decoupled weight decay, and learning rates that may
 * differ between variables.
 *
 * A subclass without running means leaves `beta1` and `beta2` out; they are 0 then.
 *
 * A subclass that lists its settings as `static optionNames` refuses all others.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a setting out of range, or one that the class does not have
 */
export abstract class DecoupledDecayOptimizer extends NamedStateOptimizer {
  learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly weightDecay: number;
  readonly excludeFromWeightDecay: NamePattern[];
  readonly learningRateFactors: [NamePattern, number][];
  readonly loraPlusRatio: number;

  constructor(settings: Settings, states?: StateStore) {
    assertKnownArgs(new.target, settings);
    super(states);
    this.learningRate = settings.learningRate;
    this.beta1 = settings.beta1 ?? 0;
    this.beta2 = settings.beta2 ?? 0;
    this.weightDecay = settings.weightDecay;
    this.excludeFromWeightDecay = settings.excludeFromWeightDecay ?? [];
    this.learningRateFactors = settings.learningRateFactors ?? [];
    this.loraPlusRatio = settings.loraPlusRatio ?? 1;
    for (const key of ['excludeFromWeightDecay', 'learningRateFactors'] as const) {
      this.assertSetting(key, Array.isArray(this[key]), 'a list', this[key]);
    }
    for (const key of ['learningRate', 'weightDecay', 'loraPlusRatio'] as const) {
      this.assertSetting(key, isNumberFromZero(this[key]), 'a number from 0', this[key]);
    }
    for (const key of ['beta1', 'beta2'] as const) {
      this.assertSetting(key, this[key] >= 0 && this[key] < 1, '0 ≤ β < 1', this[key]);
    }
    for (const [pattern, factor] of this.learningRateFactors) {
      this.assertSetting(
        `learningRateFactors ${pattern}`,
        isNumberFromZero(factor),
        'a number from 0',
        factor,
      );
    }
  }

  override get preparesSteps(): 'aside' | 'inPlace' | undefined {
    if (this.isPaged) return undefined;
    if (this.takesFactor && takesGradientFactor()) return 'inPlace';
    return Math.min(this.updatesAtOnce, optimizerUpdatesAtOnce()) > 1 ? 'aside' : undefined;
  }

  /** Whether {@link updateAlike} passes the factor on gradients to kernels that overwrite values and state. */
  protected get takesFactor(): boolean {
    return false;
  }

  /** Runs {@link updateMany} for variables with the same rates and kind of state. */
  protected updateAlike(updates: VariableUpdate[], step: number): [tf.Tensor, ...tf.Tensor[]][] {
    return super.updateMany(updates, step);
  }

  /** Groups variables with the same rates and kind of state. */
  protected override updateMany(updates: VariableUpdate[], step: number): [tf.Tensor, ...tf.Tensor[]][] {
    const groups = new Map<string, number[]>();
    for (const [place, {name, value, state}] of updates.entries()) {
      const {learningRate, weightDecay} = this.ratesOf(name, value);
      const key = `${learningRate} ${weightDecay} ${state.length}`;
      const group = groups.get(key);
      if (group) group.push(place);
      else groups.set(key, [place]);
    }
    const results: [tf.Tensor, ...tf.Tensor[]][] = [];
    for (const places of groups.values()) {
      const alike = places.map((place) => updates[place]);
      const group = this.updateAlike(alike, step);
      for (const [i, result] of group.entries()) results[places[i]] = result;
    }
    return results;
  }

  /** Returns the learning rate and decay of one variable at this step. */
  protected ratesOf(name: string, {rank}: tf.Tensor): {learningRate: number; weightDecay: number} {
    const own = this.learningRateFactors.find(([pattern]) => fits(pattern, name))?.[1];
    const factor = own ?? (name.includes('lora_B') || rank === 1 ? this.loraPlusRatio : 1);
    const isExcluded = this.excludeFromWeightDecay.some((pattern) => fits(pattern, name));
    return {learningRate: this.learningRate * factor, weightDecay: isExcluded ? 0 : this.weightDecay};
  }

  /** Returns a variable after its decay, which every update starts from. */
  protected decayed(name: string, value: tf.Variable): tf.Tensor {
    const {learningRate, weightDecay} = this.ratesOf(name, value);
    return weightDecay === 0 ? value : tf.mul(value, 1 - learningRate * weightDecay);
  }

  override getConfig(): tf.serialization.ConfigDict {
    const {learningRate, beta1, beta2, weightDecay, loraPlusRatio} = this;
    return {
      ...{learningRate, beta1, beta2, weightDecay, loraPlusRatio},
      excludeFromWeightDecay: this.excludeFromWeightDecay.map(patternToConfig),
      learningRateFactors: this.learningRateFactors.map(([pattern, factor]) => [
        patternToConfig(pattern),
        factor,
      ]),
      ...this.states.getConfig(),
    };
  }

  static override fromConfig<T extends tf.serialization.Serializable>(
    cls: tf.serialization.SerializableConstructor<T>,
    config: tf.serialization.ConfigDict,
  ): T {
    const excluded = (config.excludeFromWeightDecay ?? []) as unknown as PatternConfig[];
    const factors = (config.learningRateFactors ?? []) as unknown as [PatternConfig, number][];
    return new cls({
      ...config,
      excludeFromWeightDecay: excluded.map(patternFromConfig),
      learningRateFactors: factors.map(([pattern, factor]) => [patternFromConfig(pattern), factor]),
    });
  }

  /**
   * Checks a setting.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` unless `isValid`
   */
  protected assertSetting(key: string, isValid: boolean, expected: string, got: unknown): void {
    if (isValid) return;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${this.getClassName()} ${key}: expected ${expected}, got ${got}`,
    );
  }
}

function isNumberFromZero(value: number): boolean {
  return value >= 0 && Number.isFinite(value);
}

function fits(pattern: NamePattern, name: string): boolean {
  return typeof pattern === 'string' ? name.includes(pattern) : name.search(pattern) >= 0;
}

function patternToConfig(pattern: NamePattern): PatternConfig {
  return typeof pattern === 'string' ? pattern : {source: pattern.source, flags: pattern.flags};
}

function patternFromConfig(pattern: PatternConfig): NamePattern {
  return typeof pattern === 'string' ? pattern : new RegExp(pattern.source, pattern.flags);
}

/** Weights that transformers' Trainer does not decay, biases and norms; for `excludeFromWeightDecay`. */
export const UNDECAYED_BY_TRANSFORMERS: RegExp[] = [
  /bias/i,
  /layernorm/i,
  /rmsnorm/i,
  /(?:^|\.)norm(?:$|\.)/i,
  /_norm(?:$|\.)/i,
];

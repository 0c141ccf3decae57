import type {GradientCheckpointing} from '../../../layers/ops/gradientCheckpointing.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {formatBytes} from './formatBytes.ts';

/** Settings that lower the memory of a run. */
export interface MemorySettings {
  gradientCheckpointing: GradientCheckpointing;
  batchSize: number;
  /** Changes together with the batch size. */
  gradientAccumulationSteps: number;
  /** Number of tokens in the longest example. */
  sequenceLength: number;
  quantization: 'nf4';
  /** Changes together with the quantization. */
  optimizer: 'paged_adamw_8bit';
}

/** A change of settings, and the estimate after it in bytes; undefined for a change that is not estimated. */
export interface MemoryChange {
  settings: Partial<MemorySettings>;
  total?: number;
}

/** Writes each setting with its value, and one that changes together with another after a conjunction. */
export type MemoryWords = {[Name in keyof MemorySettings]: (value: MemorySettings[Name]) => string};

const OPTIONS: MemoryWords = {
  gradientCheckpointing: (value) =>
    `model.gradientCheckpointing = ${value === 'offload' ? "'offload'" : value}`,
  batchSize: (value) => `batchSize ${value}`,
  gradientAccumulationSteps: (value) => `with gradientAccumulationSteps ${value}`,
  sequenceLength: (value) => `examples of at most ${value} tokens`,
  quantization: (value) => `quantization of the base weights to ${value}`,
  optimizer: () => 'and a paged or 8-bit optimizer',
};

/** The error for a run that does not fit into memory: `INSUFFICIENT_MEMORY`. */
export class InsufficientMemoryError extends TfjsLoraError {
  /**
   * @param need what was expected and what there was, as a sentence
   * @param changes changes that are made one after the other until the run fits
   * @param words how the advice names the settings. Default: as options
   */
  constructor(
    readonly need: string,
    readonly changes: readonly MemoryChange[],
    words: MemoryWords = OPTIONS,
    options?: ErrorOptions,
  ) {
    const isEnough = changes.at(-1)?.total !== undefined;
    const advice = changes.map((change) => format(change, words)).join(', then ');
    super(
      'INSUFFICIENT_MEMORY',
      `${need} Change ${advice}.${isEnough ? '' : ' Otherwise use a smaller model.'}`,
      options,
    );
  }

  /** Returns the error with other names for the settings. */
  in(words: MemoryWords): InsufficientMemoryError {
    return new InsufficientMemoryError(this.need, this.changes, words, {cause: this});
  }
}

function format({settings, total}: MemoryChange, words: MemoryWords): string {
  const names = Object.keys(settings) as (keyof MemorySettings)[];
  const parts = names.map((name) => (words[name] as (value: unknown) => string)(settings[name]));
  return `${parts.join(' ')}${total === undefined ? '' : ` (${formatBytes(total)})`}`;
}

import * as tf from '@tensorflow/tfjs';
import type {OptionNames} from '../../../quant/knownOptions.ts';
import {AdamW8bit, type AdamW8bitArgs} from './adamW8bit.ts';
import {PAGED_OPTIONS, type PagedArgs, PagedStates} from './pagedStates.ts';

export interface PagedAdamW8bitArgs extends AdamW8bitArgs, PagedArgs {}

/** {@link AdamW8bit} with its state in host memory, see {@link PagedStates}; the weights are identical. */
export class PagedAdamW8bit extends AdamW8bit {
  static override className = 'PagedAdamW8bit';
  static override readonly optionNames = {
    ...AdamW8bit.optionNames,
    ...PAGED_OPTIONS,
  } satisfies OptionNames<PagedAdamW8bitArgs>;

  constructor(args: PagedAdamW8bitArgs = {}) {
    super(args, new PagedStates(args.deviceBudgetBytes));
  }
}
tf.serialization.registerClass(PagedAdamW8bit);

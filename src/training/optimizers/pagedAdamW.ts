import * as tf from '@tensorflow/tfjs';
import type {OptionNames} from '../../../quant/knownOptions.ts';
import {AdamW, type AdamWArgs} from './adamW.ts';
import {PAGED_OPTIONS, type PagedArgs, PagedStates} from './pagedStates.ts';

export interface PagedAdamWArgs extends AdamWArgs, PagedArgs {}

/** {@link AdamW} with its state in host memory, see {@link PagedStates}; the weights are identical. */
export class PagedAdamW extends AdamW {
  static override className = 'PagedAdamW';
  static override readonly optionNames = {
    ...AdamW.optionNames,
    ...PAGED_OPTIONS,
  } satisfies OptionNames<PagedAdamWArgs>;

  constructor(args: PagedAdamWArgs = {}) {
    super(args, new PagedStates(args.deviceBudgetBytes));
  }
}
tf.serialization.registerClass(PagedAdamW);

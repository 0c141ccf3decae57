import * as tf from '@tensorflow/tfjs';
import type {OptionNames} from '../../../quant/knownOptions.ts';
import {AdEMAMix, type AdEMAMixArgs} from './adEMAMix.ts';
import {PAGED_OPTIONS, type PagedArgs, PagedStates} from './pagedStates.ts';

export interface PagedAdEMAMixArgs extends AdEMAMixArgs, PagedArgs {}

/** {@link AdEMAMix} with its state in host memory, see {@link PagedStates}; the weights are identical. */
export class PagedAdEMAMix extends AdEMAMix {
  static override className = 'PagedAdEMAMix';
  static override readonly optionNames = {
    ...AdEMAMix.optionNames,
    ...PAGED_OPTIONS,
  } satisfies OptionNames<PagedAdEMAMixArgs>;

  constructor(args: PagedAdEMAMixArgs = {}) {
    super(args, new PagedStates(args.deviceBudgetBytes));
  }
}
tf.serialization.registerClass(PagedAdEMAMix);

import * as tf from '@tensorflow/tfjs';
import type {OptionNames} from '../../../quant/knownOptions.ts';
import {Lion, type LionArgs} from './lion.ts';
import {PAGED_OPTIONS, type PagedArgs, PagedStates} from './pagedStates.ts';

export interface PagedLionArgs extends LionArgs, PagedArgs {}

/** {@link Lion} with its state in host memory, see {@link PagedStates}; the weights are identical. */
export class PagedLion extends Lion {
  static override className = 'PagedLion';
  static override readonly optionNames = {
    ...Lion.optionNames,
    ...PAGED_OPTIONS,
  } satisfies OptionNames<PagedLionArgs>;

  constructor(args: PagedLionArgs = {}) {
    super(args, new PagedStates(args.deviceBudgetBytes));
  }
}
tf.serialization.registerClass(PagedLion);

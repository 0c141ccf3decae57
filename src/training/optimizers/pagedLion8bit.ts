import * as tf from '@tensorflow/tfjs';
import type {OptionNames} from '../../../quant/knownOptions.ts';
import {Lion8bit, type Lion8bitArgs} from './lion8bit.ts';
import {PAGED_OPTIONS, type PagedArgs, PagedStates} from './pagedStates.ts';

export interface PagedLion8bitArgs extends Lion8bitArgs, PagedArgs {}

/** {@link Lion8bit} with its state in host memory, see {@link PagedStates}; the weights are identical. */
export class PagedLion8bit extends Lion8bit {
  static override className = 'PagedLion8bit';
  static override readonly optionNames = {
    ...Lion8bit.optionNames,
    ...PAGED_OPTIONS,
  } satisfies OptionNames<PagedLion8bitArgs>;

  constructor(args: PagedLion8bitArgs = {}) {
    super(args, new PagedStates(args.deviceBudgetBytes));
  }
}
tf.serialization.registerClass(PagedLion8bit);

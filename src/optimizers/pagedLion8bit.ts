import * as tf from '@tensorflow/tfjs';
import {Lion8bit, type Lion8bitArgs} from './lion8bit.ts';
import {type PagedArgs, PagedStates} from './pagedStates.ts';

export interface PagedLion8bitArgs extends Lion8bitArgs, PagedArgs {}

/** {@link Lion8bit} whose state lies in host memory, see {@link PagedStates}; the weights are the same, bit for bit. */
export class PagedLion8bit extends Lion8bit {
  static override className = 'PagedLion8bit';

  constructor(args: PagedLion8bitArgs = {}) {
    super(args, new PagedStates(args.deviceBudgetBytes));
  }
}
tf.serialization.registerClass(PagedLion8bit);

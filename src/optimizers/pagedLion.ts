import * as tf from '@tensorflow/tfjs';
import {Lion, type LionArgs} from './lion.ts';
import {type PagedArgs, PagedStates} from './pagedStates.ts';

export interface PagedLionArgs extends LionArgs, PagedArgs {}

/** {@link Lion} whose state lies in host memory, see {@link PagedStates}; the weights are the same, bit for bit. */
export class PagedLion extends Lion {
  static override className = 'PagedLion';

  constructor(args: PagedLionArgs = {}) {
    super(args, new PagedStates(args.deviceBudgetBytes));
  }
}
tf.serialization.registerClass(PagedLion);

import * as tf from '@tensorflow/tfjs';
import {AdamW8bit, type AdamW8bitArgs} from './adamW8bit.ts';
import {type PagedArgs, PagedStates} from './pagedStates.ts';

export interface PagedAdamW8bitArgs extends AdamW8bitArgs, PagedArgs {}

/** {@link AdamW8bit} whose state lies in host memory, see {@link PagedStates}; the weights are the same, bit for bit. */
export class PagedAdamW8bit extends AdamW8bit {
  static override className = 'PagedAdamW8bit';

  constructor(args: PagedAdamW8bitArgs = {}) {
    super(args, new PagedStates(args.deviceBudgetBytes));
  }
}
tf.serialization.registerClass(PagedAdamW8bit);

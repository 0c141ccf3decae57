import * as tf from '@tensorflow/tfjs';
import {LoRAAdapter, LoRADense} from 'tfjs-lora/layers';

/**
 * LoRA-FA's adapter: A keeps the values that it was drawn with, and only B trains. Zhang et al. 2023,
 * https://arxiv.org/abs/2308.03303. Its files are LoRA's.
 */
export class LoRAFAAdapter extends LoRAAdapter {
  constructor(...args: ConstructorParameters<typeof LoRAAdapter>) {
    super(...args);
    this.loraA.trainable = false; // and stays so, whatever is frozen and thawed around it
  }
}

/** A linear layer with LoRA-FA: `model.applyLoRA({rank: 8, layerClass: LoRAFADense})`. */
export class LoRAFADense extends LoRADense {
  static override className = 'LoRAFADense';
  static override readonly adapterClass = LoRAFAAdapter;
}
tf.serialization.registerClass(LoRAFADense);

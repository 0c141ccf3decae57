import * as tf from '@tensorflow/tfjs';
import {LoRAAdapter} from './loraAdapter.ts';
import type {LoRAAdapterArgs} from './loraFields.ts';
import type {Parameter} from './parameter.ts';

/**
 * The update of a head tied to an embedding: the embedding's own update, transposed. Its A is the embedding's B, and its B
 * the embedding's A; only DoRA's magnitudes are its own. PEFT's `ensure_weight_tying`.
 */
export class TiedAdapter extends LoRAAdapter {
  /** @param source the embedding's adapter */
  constructor(
    private readonly source: LoRAAdapter,
    where: string,
    shape: [units: number, inputDim: number],
    args: LoRAAdapterArgs,
    rowNorms: () => tf.Tensor,
  ) {
    super(source.name, where, shape, args, rowNorms, () => source);
  }

  override factors(): {a: tf.Tensor2D; b: tf.Tensor2D} {
    const {a, b} = this.source.factors();
    return {a: tf.transpose(b), b: tf.transpose(a)};
  }

  override get parameters(): Map<string, Parameter> {
    return new Map([...super.parameters].filter(([key]) => !/^lora_[AB]\.weight$/.test(key)));
  }

  override get sources(): Parameter[] {
    return [...super.sources, ...this.source.parameters.values()];
  }
}

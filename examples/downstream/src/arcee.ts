import * as tf from '@tensorflow/tfjs';
import {trainable} from 'tfjs-lora';
import {onlyInput, onlyShape, SwiGLU, type SwiGLUArgs} from 'tfjs-lora/layers';
import {DecoderBlock, type LlamaConfig, LlamaForCausalLM, registerModel} from 'tfjs-lora/models';
import {squaredReLU} from './squaredReLU.ts';

/** Arcee's feed-forward, which has no gate: `down_proj(relu(up_proj(x))²)`. Input and output `[..., C]`. */
class SquaredReLUMLP extends SwiGLU {
  static override className = 'SquaredReLUMLP';

  override build(inputShape: tf.Shape | tf.Shape[]): void {
    const size = onlyShape(inputShape).at(-1) as number;
    this.up_proj = this.project('up_proj', size, this.intermediateSize);
    this.down_proj = this.project('down_proj', this.intermediateSize, size);
    this.built = true;
  }

  override call(inputs: tf.Tensor | tf.Tensor[], kwargs: {isUnread?: boolean} = {}): tf.Tensor {
    return tf.tidy(() => {
      const {isUnread, ...rest} = kwargs;
      const up = this.up_proj.apply(onlyInput(inputs), rest) as tf.Tensor; // [..., intermediateSize]
      return this.down_proj.apply(squaredReLU(up), {...rest, isUnread}) as tf.Tensor; // [..., C]
    });
  }
}
tf.serialization.registerClass(SquaredReLUMLP);

class ArceeDecoderBlock extends DecoderBlock {
  static override className = 'ArceeDecoderBlock';
  protected override createMlp(args: SwiGLUArgs): SwiGLU {
    return new SquaredReLUMLP(args);
  }
}
tf.serialization.registerClass(ArceeDecoderBlock);

/** Arcee's foundation models (AFM): a Llama with another feed-forward. As `ArceeForCausalLM` in transformers. */
export class ArceeForCausalLM extends LlamaForCausalLM {
  static override className = 'ArceeForCausalLM';
  static override readonly modelType = 'arcee';
  static override readonly architecture = 'ArceeForCausalLM';
  static override readonly hiddenAct = 'relu2';
  static override readonly blockClass = ArceeDecoderBlock;

  static override parameterCount = (config: LlamaConfig): number => {
    const gates = config.numHiddenLayers * config.hiddenSize * config.intermediateSize;
    return LlamaForCausalLM.parameterCount(config) - gates;
  };
}
registerModel(ArceeForCausalLM);

/** The family with training: `await Arcee.fromPretrained('AFM-4.5B')`. */
export const Arcee = trainable(ArceeForCausalLM);

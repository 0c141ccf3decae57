import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import type {OptionNames} from '../quant/knownOptions.ts';
import {LAYER_OPTIONS, type LayerArgs, ModuleLayer, onlyInput, onlyShape} from './moduleLayer.ts';
import {linear} from './ops/linear.ts';
import {withoutAllocation} from './parameter.ts';
import type {TokenEmbedding} from './tokenEmbedding.ts';
import {TransposedDense} from './transposedDense.ts';

export interface TiedHeadArgs extends LayerArgs {
  /** The embedding whose table is the output weight. */
  embedding: TokenEmbedding;
}

/** Output head that shares the embedding's table: `[..., C]` → `[..., vocabSize]` logits. No weights of its own. */
export class TiedHead extends ModuleLayer {
  static className = 'TiedHead';
  static readonly optionNames = {
    ...LAYER_OPTIONS,
    embedding: true,
  } satisfies OptionNames<TiedHeadArgs>;
  readonly #embedding: TokenEmbedding; // private, so that it does not count as a sub-layer

  constructor(args: TiedHeadArgs) {
    super(args);
    if (!args.embedding) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `${this.name} embedding: expected the TokenEmbedding whose table it shares, got none. A config cannot hold a ` +
          'shared layer: build the head in code, or a TransposedDense head with a table of its own.',
      );
    }
    this.#embedding = args.embedding;
  }

  /** The layer whose table it shares. */
  get embedding(): TokenEmbedding {
    return this.#embedding;
  }

  /** Returns a head with a table of its own, which has the values of the shared one. */
  untied(): TransposedDense {
    const {name, weight} = this;
    const [units, inputDim] = weight.logicalShape;
    const {storage} = this.#embedding;
    const dense = new TransposedDense({name, units, useBias: false, storage, trainable: false});
    withoutAllocation(() => dense.build([null, inputDim]));
    if (weight.isAllocated) tf.tidy(() => void dense.weight.write(weight.read().clone()));
    return dense;
  }

  /** The shared table, `[vocabSize, C]`. */
  get weight() {
    return this.#embedding.weight;
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return [...onlyShape(inputShape).slice(0, -1), this.#embedding.vocabSize];
  }

  override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
    return tf.tidy(() => {
      const x = onlyInput(inputs); // [..., C]
      const flat = x.reshape([-1, this.#embedding.hiddenSize]) as tf.Tensor2D;
      const logits = this.weight.trainable
        ? tf.matMul(flat, this.weight.read() as tf.Tensor as tf.Tensor2D, false, true)
        : linear(flat, this.weight.matrix());
      return logits.reshape([...x.shape.slice(0, -1), this.#embedding.vocabSize]);
    });
  }
}
tf.serialization.registerClass(TiedHead);

import * as tf from '@tensorflow/tfjs';
import type {StorageDtype} from '../quant/float16.ts';
import type {OptionNames} from '../quant/knownOptions.ts';
import {
  type Initializer,
  type SerializedInitializer,
  serializeInitializer,
  toInitializer,
} from './initializer.ts';
import {LAYER_OPTIONS, type LayerArgs, ModuleLayer, onlyInput, onlyShape} from './moduleLayer.ts';
import {embedding} from './ops/embedding.ts';
import type {DenseMatrix} from './ops/storedMatrix.ts';
import type {Parameter} from './parameter.ts';

export interface TokenEmbeddingArgs extends LayerArgs {
  /** Number of rows of the table. */
  vocabSize: number;
  /** Size of a token's vector. */
  hiddenSize: number;
  /** Storage type of the table: float32, bfloat16 or float16. A 16-bit table is frozen. Default `float32`. */
  storage?: StorageDtype;
  /** Factor on the vectors; Gemma's is the square root of their size. Default 1. */
  scale?: number;
  /** Initializer of the table. Default normal with standard deviation 0.02. */
  weightInitializer?: Initializer | SerializedInitializer;
}

/**
 * Looks tokens up in a table that may be stored in 16 bits.
 *
 * Input `[..., T]` int32 token ids, output `[..., T, hiddenSize]` float32. Weight: `weight` `[vocabSize, hiddenSize]`.
 */
export class TokenEmbedding extends ModuleLayer {
  static className = 'TokenEmbedding';
  static readonly optionNames = {
    ...LAYER_OPTIONS,
    vocabSize: true,
    hiddenSize: true,
    storage: true,
    scale: true,
    weightInitializer: true,
  } satisfies OptionNames<TokenEmbeddingArgs>;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly storage: StorageDtype;
  readonly scale: number;
  readonly weightInitializer: Initializer;
  weight!: Parameter;

  constructor(args: TokenEmbeddingArgs) {
    super(args);
    this.vocabSize = args.vocabSize;
    this.hiddenSize = args.hiddenSize;
    this.storage = args.storage ?? 'float32';
    this.scale = args.scale ?? 1;
    this.weightInitializer = toInitializer(
      args.weightInitializer ?? tf.initializers.randomNormal({stddev: 0.02}),
    );
  }

  override build(): void {
    const shape = [this.vocabSize, this.hiddenSize];
    this.weight = this.addParameter('weight', shape, {
      storage: this.storage,
      initialize: () => this.weightInitializer.apply(shape, 'float32'),
    });
    this.built = true;
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return [...onlyShape(inputShape), this.hiddenSize];
  }

  override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
    return tf.tidy(() => {
      const vectors = embedding(onlyInput(inputs).toInt(), this.weight.matrix() as DenseMatrix);
      return this.scale === 1 ? vectors : tf.mul(vectors, this.scale);
    });
  }

  override getConfig(): tf.serialization.ConfigDict {
    return {
      ...super.getConfig(),
      vocabSize: this.vocabSize,
      hiddenSize: this.hiddenSize,
      storage: this.storage,
      scale: this.scale,
      weightInitializer: serializeInitializer(this.weightInitializer),
    };
  }
}
tf.serialization.registerClass(TokenEmbedding);

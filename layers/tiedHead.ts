import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import type {OptionNames} from '../quant/knownOptions.ts';
import type {LayerArgs} from './moduleLayer.ts';
import {type Parameter, withoutAllocation} from './parameter.ts';
import type {TokenEmbedding} from './tokenEmbedding.ts';
import {TransposedDense, type TransposedDenseArgs} from './transposedDense.ts';

export interface TiedHeadArgs extends LayerArgs {
  /** The embedding whose table is the output weight. */
  embedding: TokenEmbedding;
}

/**
 * Output head that shares the embedding's table: `[..., C]` → `[..., vocabSize]` logits, without a bias. Its `weight`
 * `[vocabSize, C]` is the embedding's, and it has no other weights.
 */
export class TiedHead extends TransposedDense {
  static override className = 'TiedHead';
  static override readonly optionNames = {
    ...TransposedDense.optionNames,
    embedding: true,
  } satisfies OptionNames<TransposedDenseArgs & TiedHeadArgs>;
  readonly #embedding: TokenEmbedding; // private, so that it does not count as a sub-layer

  constructor(args: TiedHeadArgs) {
    const {embedding} = args;
    if (!embedding) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `${args.name ?? 'TiedHead'} embedding: expected the TokenEmbedding whose table it shares, got none. A config cannot ` +
          'hold a shared layer: build the head in code, or a TransposedDense head with a table of its own.',
      );
    }
    super({...args, units: embedding.vocabSize, useBias: false, storage: embedding.storage});
    this.#embedding = embedding;
  }

  /** The layer whose table it shares. */
  get embedding(): TokenEmbedding {
    return this.#embedding;
  }

  protected override buildWeight(): Parameter {
    return this.#embedding.weight;
  }

  /** Returns a head with its own table, which has the values of the shared table. */
  untied(): TransposedDense {
    const {name, units, inputDim, storage, weight} = this;
    const dense = new TransposedDense({name, units, useBias: false, storage, trainable: false});
    withoutAllocation(() => dense.build([null, inputDim]));
    if (weight.isAllocated) tf.tidy(() => void dense.weight.write(weight.read().clone()));
    return dense;
  }
}
tf.serialization.registerClass(TiedHead);

import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import {doraScale, rowNorms} from './dora.ts';
import {LoRAAdapter} from './loraAdapter.ts';
import type {LoRAAdapterArgs} from './loraFields.ts';
import {mergedValue} from './mergedValue.ts';
import {onlyInput} from './moduleLayer.ts';
import type {StoredMatrix} from './ops/storedMatrix.ts';
import {takeRows} from './ops/takeRows.ts';
import {unpackMatrix} from './ops/unpackMatrix.ts';
import {Parameter, withoutAllocation} from './parameter.ts';
import {ReplacedLayer} from './replacedLayer.ts';
import {TokenEmbedding} from './tokenEmbedding.ts';

/** A low-rank update of an embedding's table: A `[rank, vocabSize]` zeros, B `[hiddenSize, rank]` normal(0, 1), as in PEFT. */
export class EmbeddingAdapter extends LoRAAdapter {
  constructor(
    name: string,
    where: string,
    [hiddenSize, vocabSize]: [number, number],
    args: LoRAAdapterArgs,
    columnNorms: () => tf.Tensor,
  ) {
    if (args.loraBias) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `LoRA loraBias for ${where}: expected false for an embedding, got true. PEFT refuses this too.`,
      );
    }
    super(name, where, [hiddenSize, vocabSize], args, columnNorms, () => {
      const {rank, freezeB = false, seed} = args;
      const a = {name: `${where}.lora_embedding_A.${name}`, shape: [rank, vocabSize]};
      const b = {name: `${where}.lora_embedding_B.${name}`, shape: [hiddenSize, rank]};
      return {
        loraA: new Parameter({...a, initialize: () => tf.zeros(a.shape)}),
        loraB: new Parameter({
          ...b,
          trainable: !freezeB,
          initialize: () => tf.randomNormal(b.shape, 0, 1, 'float32', seed),
        }),
      };
    });
  }

  override get parameters(): Map<string, Parameter> {
    return new Map(
      [...super.parameters].map(([key, weight]) => [
        key.replace(/^lora_([AB])\.weight$/, 'lora_embedding_$1'),
        weight,
      ]),
    );
  }
}

/**
 * A frozen embedding with trained low-rank updates: a token's vector gets `scaling · B · A` at the token's column added,
 * before the embedding's scale. PEFT's `lora.Embedding`, which has no dropout.
 *
 * Input `[..., T]` int32 token ids, output `[..., T, hiddenSize]` float32.
 */
export class LoRAEmbedding extends ReplacedLayer<TokenEmbedding, LoRAAdapter> {
  static className = 'LoRAEmbedding';

  /**
   * Adds an adapter and activates it in addition to the active ones.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` for a name that exists, an unknown option or an impossible setting
   */
  addAdapter(name: string, args: LoRAAdapterArgs): LoRAAdapter {
    this.assertNewName(name);
    const {hiddenSize, vocabSize, weight} = this.base;
    const columnNorms = () => rowNorms(this.transposedTable());
    const create = () => new EmbeddingAdapter(name, this.name, [hiddenSize, vocabSize], args, columnNorms);
    return this.keep(weight.isAllocated ? create() : withoutAllocation(create));
  }

  /** Returns the base's table as the weight `[hiddenSize, vocabSize]` that A and B update. */
  private transposedTable(): StoredMatrix {
    const {hiddenSize: rows, vocabSize: cols, weight} = this.base;
    return {tensor: tf.transpose(unpackMatrix(weight.matrix())), dtype: 'float32', rows, cols};
  }

  override get knowsRows(): boolean {
    return true;
  }

  override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
    if (this.rowNames) return this.callByRows(inputs);
    return tf.tidy(() => {
      const ids = onlyInput(inputs).toInt(); // [..., T]
      const vectors = this.base.apply(ids) as tf.Tensor; // [..., T, hiddenSize]
      if (this.isMerged || this.activeAdapters.length === 0) return vectors;
      const flat = ids.flatten() as tf.Tensor1D;
      const base = vectors.reshape([flat.size, this.base.hiddenSize]) as tf.Tensor2D; // [N, hiddenSize]
      let sum = base;
      for (const name of this.activeAdapters) {
        const adapter = this.adapter(name);
        const {a, b} = adapter.factors();
        const low = takeRows(tf.transpose(a), flat); // [N, rank]
        const update = tf.mul(tf.matMul(low, b, false, true), adapter.scaling * this.base.scale);
        const scale = this.doraScale(adapter, a, b);
        sum = tf.add(sum, scale ? tf.add(tf.mul(base, tf.sub(scale, 1)), tf.mul(update, scale)) : update);
      }
      return sum.reshape(vectors.shape);
    });
  }

  private doraScale(
    {magnitude, scaling}: LoRAAdapter,
    a: tf.Tensor2D,
    b: tf.Tensor2D,
  ): tf.Tensor | undefined {
    return magnitude && doraScale(this.transposedTable(), a, b, scaling, magnitude.read());
  }

  /**
   * Puts an embedding with the updates in its table, rounded to its type, in the base's place.
   *
   * @throws TfjsLoraError `NON_FINITE`; the layer is then unchanged
   */
  override merge(): void {
    if (this.isMerged || this.activeAdapters.length === 0) return;
    const {name, vocabSize, hiddenSize, storage, scale} = this.base;
    const merged = new TokenEmbedding({name, vocabSize, hiddenSize, storage, scale, trainable: false});
    withoutAllocation(() => merged.build());
    tf.tidy(() => void merged.weight.write(mergedValue(merged.weight, this.mergedTable(), this.name)));
    merged.built = true;
    this.replaceBase(merged);
  }

  /** Returns the table with the active updates added, `[vocabSize, hiddenSize]` float32. */
  private mergedTable(): tf.Tensor2D {
    const base = unpackMatrix(this.base.weight.matrix());
    return this.activeAdapters.reduce((table, name) => {
      const adapter = this.adapter(name);
      const {a, b} = adapter.factors();
      const update = tf.mul(tf.matMul(a, b, true, true), adapter.scaling); // [vocabSize, hiddenSize]
      const scale = this.doraScale(adapter, a, b);
      return tf.add(table, scale ? tf.add(tf.mul(base, tf.sub(scale, 1)), tf.mul(update, scale)) : update);
    }, base);
  }
}

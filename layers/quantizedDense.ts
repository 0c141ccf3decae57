import * as tf from '@tensorflow/tfjs';
import {type StorageDtype, unpackRowBits} from '../quant/float16.ts';
import type {OptionNames} from '../quant/knownOptions.ts';
import {drawOnHost} from './drawOnHost.ts';
import type {DenseMatrix} from './ops/storedMatrix.ts';
import {asConfig} from './ops/tfjsInternals.ts';
import {unpackMatrix} from './ops/unpackMatrix.ts';
import {isAllocating, withoutAllocation} from './parameter.ts';
import {type QuantizationArgs, type QuantizationType, resolveQuantization} from './quantizationArgs.ts';
import {QuantizedParameter} from './quantizedParameter.ts';
import {TransposedDense, type TransposedDenseArgs} from './transposedDense.ts';

export interface QuantizedDenseArgs extends TransposedDenseArgs {
  /** Settings for quantizing; a type alone is short for `{type}`. */
  quantization: QuantizationArgs | QuantizationType;
}

/**
 * A frozen {@link TransposedDense} whose weight is stored in 4 or 8 bits and dequantized for each product, a tile at a
 * time, in forward and in backward. Dettmers et al. 2023 (QLoRA), 2022 (LLM.int8()); formats as in bitsandbytes.
 *
 * Input `[..., inputDim]` float32, output `[..., units]` float32.
 * Weights: `weight` `[units, inputDim]` quantized, `bias` `[units]` float32.
 *
 * @example
 * ```ts
 * import {QuantizedDense, TransposedDense} from 'tfjs-lora/layers';
 *
 * const dense = new TransposedDense({units: 10});
 * dense.build([null, 64]);
 * const rounded = await QuantizedDense.fromDense(dense, {type: 'nf4', doubleQuant: true});
 * ```
 */
export class QuantizedDense extends TransposedDense {
  static override className = 'QuantizedDense';
  static override readonly optionNames = {
    ...TransposedDense.optionNames,
    quantization: true,
  } satisfies OptionNames<QuantizedDenseArgs>;
  readonly quantization: QuantizationArgs;
  declare weight: QuantizedParameter;

  /**
   * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown quantization type, or an option that the type does not have
   */
  constructor(args: QuantizedDenseArgs) {
    super({...args, trainable: false});
    this.quantization = resolveQuantization('quantization', args.quantization);
  }

  /**
   * Quantizes a built layer. That layer does not change; dispose it to free its memory.
   *
   * @throws TfjsLoraError `NON_FINITE` naming the weight, and what the quantizer throws
   */
  static async fromDense<T extends QuantizedDense>(
    this: QuantizedDenseClass<T>,
    dense: TransposedDense,
    quantization: QuantizationArgs | QuantizationType,
  ): Promise<T> {
    const layer = this.like<T>(dense, quantization);
    const {storage} = dense;
    const {tensor} = dense.weight.matrix() as DenseMatrix;
    try {
      const data = await tensor.data();
      const isFloat = storage === 'float32';
      layer.weight.quantize(
        isFloat ? (data as Float32Array) : unpackRowBits(data as Int32Array, layer.units, layer.inputDim),
        storage,
      );
      if (dense.bias) layer.bias?.write(dense.bias.read());
      return layer;
    } catch (error) {
      layer.disposeWeights();
      throw error;
    } finally {
      if (tensor !== dense.weight.read()) tensor.dispose(); // a copy, made of a weight that is stored in another way
    }
  }

  /** Returns a layer with another's shape and settings whose weights are declared but not written yet. */
  static like<T extends QuantizedDense>(
    this: QuantizedDenseClass<T>,
    dense: TransposedDense,
    quantization: QuantizationArgs | QuantizationType,
  ): T {
    const {units, useBias, activation, storage, name, inputDim} = dense;
    const layer = new this({units, useBias, activation, storage, name, quantization});
    withoutAllocation(() => layer.build([null, inputDim]));
    return layer;
  }

  protected override buildWeight(shape: [units: number, inputDim: number]): QuantizedParameter {
    this.weight = this.adopt(
      'weight',
      new QuantizedParameter(`${this.name}.weight`, shape, this.quantization, this.storage),
    );
    if (isAllocating()) {
      const values = drawOnHost(() => this.weightInitializer.apply(shape, 'float32'));
      this.weight.quantize(values, 'float32');
    }
    return this.weight;
  }

  /**
   * Returns a layer with the dequantized weight, in float32 or rounded to a 16-bit type. This layer does not change.
   */
  dequantize(storage: StorageDtype = this.storage): TransposedDense {
    const {units, useBias, activation, name, inputDim} = this;
    const dense = new TransposedDense({units, useBias, activation, name, storage, trainable: false});
    withoutAllocation(() => dense.build([null, inputDim]));
    tf.tidy(() => {
      dense.weight.write(dense.weight.stored(unpackMatrix(this.weight.matrix())));
      if (this.bias) dense.bias?.write(this.bias.read());
    });
    return dense;
  }

  override getConfig(): tf.serialization.ConfigDict {
    return {...super.getConfig(), quantization: asConfig(this.heldQuantization())};
  }

  /** Returns the settings of the stored weight: a file's weight may have another block size than the one requested. */
  private heldQuantization(): QuantizationArgs {
    const {quantization, weight} = this;
    const matrix = weight?.isAllocated ? weight.matrix() : undefined;
    if (matrix === undefined || !('blockSize' in matrix)) return quantization;
    const {blockSize, nestedBlockSize} = matrix;
    const doubleQuant = nestedBlockSize > 0;
    return {
      ...quantization,
      ...(blockSize !== (quantization.blockSize ?? 64) && {blockSize}),
      ...(doubleQuant !== (quantization.doubleQuant ?? false) && {doubleQuant}),
    };
  }
}
tf.serialization.registerClass(QuantizedDense);

/** The class {@link QuantizedDense}, or a subclass. */
export interface QuantizedDenseClass<T extends QuantizedDense = QuantizedDense> {
  new (args: QuantizedDenseArgs): T;
  like: typeof QuantizedDense.like;
}

import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import type {QuantizedMatrix} from '../quant/quantizedMatrix.ts';
import {getQuantizer} from '../quant/quantizerRegistry.ts';
import {type QuantizedStorage, readQuantized, storeQuantized} from './ops/quantizedStorage.ts';
import {type StoredMatrix, tensorsOf} from './ops/storedMatrix.ts';
import {Parameter} from './parameter.ts';
import type {QuantizationArgs} from './quantizationArgs.ts';

/**
 * A frozen weight in few bits. To the layer it is one weight of its logical shape; in memory it is the codes, which are
 * the variable that Keras sees, and the scales beside them.
 */
export class QuantizedParameter extends Parameter {
  private held?: {storage: QuantizedStorage; quantType: string; dtype: StorageDtype; byteLength: number};

  /** @param shape `[units, inputDim]` */
  constructor(
    name: string,
    shape: [number, number],
    readonly quantization: QuantizationArgs,
  ) {
    super({name, shape, storage: 'quantized', trainable: false});
  }

  /** The format, once there is a value: `nf4`, `fp4`, `int8`, or as a quantizer is registered. */
  get quantType(): string {
    return this.value.quantType;
  }

  /** What the weight was before it was quantized. */
  get sourceDtype(): StorageDtype {
    return this.value.dtype;
  }

  override get byteLength(): number {
    return this.held?.byteLength ?? 0;
  }

  override matrix(): StoredMatrix {
    const codes = this.read();
    const {storage} = this.value;
    return 'codes' in storage.tensors
      ? ({...storage, tensors: {...storage.tensors, codes}} as StoredMatrix)
      : storage;
  }

  /**
   * Quantizes values and takes them.
   *
   * @param values row-major, float32 or the bits of a 16-bit type
   * @param dtype their type
   * @throws TfjsLoraError `NON_FINITE` naming the weight, and what the quantizer throws
   */
  quantize(values: Float32Array | Uint16Array, dtype: StorageDtype): this {
    const {type, computeDtype, ...options} = this.quantization; // how products are computed is not the quantizer's
    const shape = this.logicalShape as [number, number];
    return this.writeMatrix(
      getQuantizer(type).quantize(values, shape, {...options, name: this.originalName, dtype}),
    );
  }

  /** Takes a quantized matrix as its value. */
  writeMatrix(matrix: QuantizedMatrix): this {
    if (!tf.util.arraysEqual([...matrix.shape], this.logicalShape)) {
      throw new TfjsLoraError(
        'SHAPE_MISMATCH',
        `weight ${this.originalName}: expected [${this.logicalShape.join(', ')}], got a quantized matrix of ` +
          `[${matrix.shape.join(', ')}]`,
      );
    }
    tf.tidy(() => {
      const storage = storeQuantized(matrix);
      const {codes = tf.zeros([0], 'int32'), ...scales} = tensorsOf(storage);
      if (!this.isAllocated) (this as {shape: tf.Shape}).shape = codes.shape;
      this.write(codes); // throws for another format than before
      this.disposeScales();
      for (const tensor of Object.values(scales)) tf.keep(tensor);
      const {quantType, dtype, byteLength} = matrix;
      this.held = {storage, quantType, dtype, byteLength};
    });
    return this;
  }

  /** The value, read back to the host. */
  readMatrix(): Promise<QuantizedMatrix> {
    const {dtype} = this.value;
    return readQuantized(this.matrix() as QuantizedStorage, dtype);
  }

  override dispose(): void {
    this.disposeScales();
    super.dispose();
  }

  private get value(): NonNullable<QuantizedParameter['held']> {
    if (this.held) return this.held;
    this.read(); // says what is missing
    throw new TfjsLoraError('DISPOSED', `weight ${this.originalName}: expected a live weight`);
  }

  private disposeScales(): void {
    if (!this.held) return;
    const {codes, ...scales} = tensorsOf(this.held.storage);
    tf.dispose(scales);
    this.held = undefined;
  }
}

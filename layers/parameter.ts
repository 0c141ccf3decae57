import * as tf from '@tensorflow/tfjs';
import {assertFinite, assertFiniteBits} from '../quant/assertFinite.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import {
  fromFloat32,
  packFloat32Rows,
  packRows,
  type StorageDtype,
  unpackRowBits,
  unpackRows,
} from '../quant/float16.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {FLOAT_DTYPES} from '../quant/safetensors/floatDtypes.ts';
import type {SafetensorsDtype} from '../quant/safetensors/safetensorsDtype.ts';
import {toFloat32} from '../quant/safetensors/toFloat32.ts';
import {backendTraits} from './ops/backendTraits.ts';
import {pack16} from './ops/pack16.ts';
import {type StoredMatrix, storedShape} from './ops/storedMatrix.ts';
import {membersOf} from './ops/tfjsInternals.ts';

let allocating = true;
let nextPlaceholder = 0;

/**
 * Runs `build` with layers that declare their weights but allocate none, for instance to count the parameters of a
 * model that does not fit, or to fill the weights one by one from files. Reading such a weight before it is written
 * throws.
 */
export function withoutAllocation<T>(build: () => T): T {
  const before = allocating;
  allocating = false;
  try {
    return build();
  } finally {
    allocating = before;
  }
}

/** Whether weights that are built now get memory. */
export const isAllocating = (): boolean => allocating;

/** Storage type of a weight; the layer of a quantized weight knows the details. */
export type ParameterStorage = StorageDtype | 'quantized';

export interface ParameterArgs {
  /** Full name, unique in the model, as in the model's files: `model.norm.weight`. */
  name: string;
  /** Logical shape, regardless of the storage. */
  shape: number[];
  /** Storage type. Default `float32`. The 16-bit types are packed in int32 and need a matrix. */
  storage?: ParameterStorage;
  trainable?: boolean;
  /**
   * Returns the first value, float32 of `shape`; called only if the weight is allocated in the constructor. Default:
   * the weight is not allocated.
   */
  initialize?: () => tf.Tensor;
}

export interface LoadBytesOptions {
  /** Names the weight and its source in messages. Default its name. */
  where?: string;
  /**
   * Whether to refuse NaN and infinity, which costs one pass over the bytes; a quantized weight always refuses them.
   * Default true.
   */
  checkFinite?: boolean;
}
/** The options of `load`. */
export const LOAD_BYTES_OPTIONS = {where: true, checkFinite: true} satisfies OptionNames<LoadBytesOptions>;

/** A layer's weight: a `tf.LayerVariable` that knows its logical shape and may exist before its memory does. */
export class Parameter extends tf.LayerVariable {
  logicalShape: number[];
  readonly storage: ParameterStorage;
  private allocated = false;
  private isHeld = false;

  constructor({name, shape, storage = 'float32', trainable = true, initialize}: ParameterArgs) {
    const placeholder = tf.zeros([0], storage === 'float32' ? 'float32' : 'int32');
    super(placeholder, placeholder.dtype, `placeholder${nextPlaceholder++}`, trainable); // `name` may be in use
    placeholder.dispose();
    this.logicalShape = shape;
    this.storage = storage;
    const members = membersOf(this);
    members.shape =
      storage === 'float32' || storage === 'quantized' ? shape : storedShape(storage, shape[0], shape[1]);
    members.originalName = name; // without the scope of the layer that is being built
    members.name = name; // until it is allocated
    if (!allocating || !initialize) return;
    const initial = tf.tidy(() => this.stored(initialize()));
    this.write(initial);
    initial.dispose();
  }

  /** Converts a float32 value of the logical shape to the tensor that stores it, which {@link write} takes. */
  stored(value: tf.Tensor): tf.Tensor {
    if (this.storage === 'float32') return value;
    if (this.storage !== 'quantized') return pack16(value as tf.Tensor2D, this.storage);
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `weight ${this.originalName}: expected a quantized matrix, got float32 values. Quantize them first.`,
    );
  }

  /**
   * Sets the value from the bytes of a file's tensor, without a copy if the types agree.
   *
   * @param bytes row-major, of the logical shape
   * @param dtype their type, in safetensors' spelling
   * @throws TfjsLoraError `UNSUPPORTED` for a type other than F32, F16 and BF16, `NON_FINITE`
   */
  load(bytes: Uint8Array, dtype: SafetensorsDtype, options?: LoadBytesOptions): this {
    const value = this.decode(bytes, dtype, options);
    this.write(value);
    value.dispose();
    return this;
  }

  /** Returns the tensor that {@link load} would write, for the caller to dispose. */
  decode(bytes: Uint8Array, dtype: SafetensorsDtype, options: LoadBytesOptions = {}): tf.Tensor {
    assertKnownOptions('load', options, LOAD_BYTES_OPTIONS);
    const {where = `weight ${this.originalName}`, checkFinite = true} = options;
    const storage = this.storage as StorageDtype;
    const shape = this.shape as number[];
    const [rows, cols] = this.logicalShape;
    if (storage !== 'float32' && FLOAT_DTYPES[dtype] === storage) {
      const bits = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
      if (checkFinite) assertFiniteBits(bits, storage, where);
      return tf.tensor(packRows(bits, rows, cols), shape, 'int32');
    }
    const values = toFloat32(bytes, dtype, where);
    if (checkFinite) assertFinite(values, where);
    if (storage === 'float32') return tf.tensor(values, shape, 'float32');
    return tf.tensor(packFloat32Rows(values, rows, cols, storage), shape, 'int32');
  }

  /**
   * Returns the value in a file's type, row-major, of the logical shape: float32 values or 16-bit bits.
   *
   * @throws TfjsLoraError `NON_FINITE` after a merge that could not check its result synchronously; it is checked here
   */
  async toBytes(dtype: StorageDtype): Promise<ArrayBufferView> {
    const storage = this.storage as StorageDtype;
    const where = `save ${this.originalName}`;
    const isUnchecked = !backendTraits().readsAtOnce;
    const data = await this.read().data();
    if (storage === 'float32') {
      if (isUnchecked) assertFinite(data as Float32Array, where);
      return fromFloat32(data as Float32Array, dtype);
    }
    const [rows, cols] = this.logicalShape;
    const packed = data as Int32Array;
    if (isUnchecked) assertFiniteBits(unpackRowBits(packed, rows, cols), storage, where);
    if (storage === dtype) return unpackRowBits(packed, rows, cols);
    return fromFloat32(unpackRows(packed, rows, cols, storage), dtype);
  }

  /** Number of bytes it takes in memory. */
  get byteLength(): number {
    return this.allocated ? 4 * this.read().size : 0;
  }

  /** Number of logical elements. */
  get size(): number {
    return tf.util.sizeFromShape(this.logicalShape);
  }

  get isAllocated(): boolean {
    return this.allocated;
  }

  override read(): tf.Variable {
    if (membersOf(this).val.isDisposed) {
      throw new TfjsLoraError(
        'DISPOSED',
        `weight ${this.originalName}: expected a live weight, got one that was disposed`,
      );
    }
    if (!this.allocated) {
      throw new TfjsLoraError(
        'MISSING_TENSOR',
        `weight ${this.originalName}: expected a value, got none. The model was built without allocating ` +
          'weights (allocate: false); load them first.',
      );
    }
    return super.read() as tf.Variable;
  }

  /** The variables that store it, as Keras saves and sets them: itself, and those that a subclass adds. */
  get variables(): Parameter[] {
    return [this];
  }

  /** Whether it trains: false while it is frozen itself or held. */
  override get trainable(): boolean {
    return membersOf(this).trainable_ && !this.isHeld;
  }

  override set trainable(trainable: boolean) {
    membersOf(this).trainable_ = trainable;
    this.val.trainable = this.trainable;
  }

  /** Whether its layer or adapter freezes it; when released, it trains as it did before. */
  set held(held: boolean) {
    this.isHeld = held;
    this.val.trainable = this.trainable;
  }

  /** Renames it, in messages and where Keras saves it. */
  rename(name: string): void {
    membersOf(this).originalName = name;
  }

  /** Returns the value as ops take a matrix. */
  matrix(): StoredMatrix {
    const [rows, cols] = this.logicalShape;
    return {tensor: this.read(), dtype: this.storage as StorageDtype, rows, cols};
  }

  /** @throws TfjsLoraError `SHAPE_MISMATCH` for a value that {@link write} does not take */
  assertTakes(value: tf.Tensor): void {
    if (tf.util.arraysEqual(value.shape, this.shape as number[]) && value.dtype === this.dtype) return;
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `weight ${this.originalName}: expected ${this.dtype} [${this.shape}], got ${value.dtype} [${value.shape}]`,
    );
  }

  /** Makes room for values of another shape; the current value is lost. */
  protected resize(shape: tf.Shape): void {
    if (tf.util.arraysEqual(this.shape as number[], shape as number[])) return;
    membersOf(this).shape = shape;
    this.allocated = false;
  }

  /** Appends zeros along an axis, in a new variable. */
  pad(axis: number, count: number): void {
    if (count === 0) return;
    const shape = (this.shape as number[]).map((size, i) => (i === axis ? size + count : size));
    const isAllocated = this.allocated;
    const value = isAllocated
      ? tf.tidy(() =>
          tf.pad(
            this.read(),
            shape.map((_, i): [number, number] => [0, i === axis ? count : 0]),
          ),
        )
      : undefined;
    this.resize(shape);
    this.logicalShape = shape;
    if (!value) return;
    this.write(value);
    value.dispose();
  }

  /**
   * Sets the value of a float32 weight from the host, in the memory that it has if the backend can write there: what
   * was recorded for replay then reads the new value.
   *
   * @param values row-major, of the weight's size
   */
  overwrite(values: Float32Array): void {
    if (this.isAllocated && backendTraits().overwrite?.(this.read(), values)) return;
    const {buffer, byteOffset, byteLength} = values;
    this.load(new Uint8Array(buffer, byteOffset, byteLength), 'F32');
  }

  /** Takes over `value`'s data without a copy; `value` must be of the storage's shape and dtype. */
  override write(value: tf.Tensor): this {
    this.assertTakes(value);
    if (this.allocated) return super.write(value);
    membersOf(this).name = unusedVariableName(this.originalName);
    this.hold(tf.variable(value, this.trainable, this.name, this.dtype));
    return this;
  }

  /** Shares another weight's variable without a copy: writing to one writes to both. */
  share(weight: tf.LayerVariable): void {
    const {val} = membersOf(weight);
    Object.assign(membersOf(this), {name: val.name, trainable_: weight.trainable});
    this.hold(val);
  }

  /** Frees the value, unless another weight with the same value did so. */
  override dispose(): void {
    if (!membersOf(this).val.isDisposed) super.dispose();
  }

  private hold(variable: tf.Variable): void {
    this.val.dispose();
    membersOf(this).val = variable;
    this.allocated = true;
  }
}

function unusedVariableName(name: string): string {
  const used = tf.engine().registeredVariables;
  if (!(name in used)) return name;
  let suffix = 1;
  while (`${name}_${suffix}` in used) suffix++;
  return `${name}_${suffix}`;
}

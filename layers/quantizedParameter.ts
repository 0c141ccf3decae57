import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import {fromFloat32, type StorageDtype} from '../quant/float16.ts';
import {
  GROUPED_TYPES,
  type GroupedCodes,
  type GroupedFile,
  GroupedTensor,
} from '../quant/grouped/groupedTensor.ts';
import {assertKnownOptions} from '../quant/knownOptions.ts';
import type {QuantizedTensor} from '../quant/quantizedTensor.ts';
import {getQuantizer} from '../quant/quantizerRegistry.ts';
import {FLOAT_DTYPES} from '../quant/safetensors/floatDtypes.ts';
import type {SafetensorsDtype} from '../quant/safetensors/safetensorsDtype.ts';
import {toFloat32} from '../quant/safetensors/toFloat32.ts';
import {
  type DeviceFormat,
  type HostedMatrix,
  type QuantizedMatrix,
  readQuantized,
  storedBytes,
  storedShapes,
  storeQuantized,
} from './ops/quantizedMatrix.ts';
import {attributesOf, type StoredMatrix, tensorsOf} from './ops/storedMatrix.ts';
import {membersOf} from './ops/tfjsInternals.ts';
import {LOAD_BYTES_OPTIONS, type LoadBytesOptions, Parameter} from './parameter.ts';
import type {QuantizationArgs} from './quantizationArgs.ts';

/**
 * A frozen weight in few bits. The layer sees one weight of its logical shape. In memory, and for Keras, which saves
 * and sets them, it is several {@link variables}: the codes, the scales, and `format`, numbers that say how to read
 * them.
 */
export class QuantizedParameter extends Parameter {
  /** The other tensors, by their names in the storage, and the format. */
  private readonly parts = new Map<string, Part>();
  /** The format that its numbers describe, until they are written again. */
  private known?: {format: DeviceFormat; sourceDtype: StorageDtype};
  /** What the value's file says beside it. */
  private file?: GroupedFile;
  /** Replaces all of these: the matrix of a quantizer that only its own code reads. */
  private hosted?: HostedMatrix;

  /**
   * @param shape `[units, inputDim]`
   * @param valueDtype the type that a file's values are rounded to before they are quantized
   */
  constructor(
    name: string,
    shape: [number, number],
    readonly quantization: QuantizationArgs,
    readonly valueDtype: StorageDtype = 'float32',
  ) {
    super({name, shape, storage: 'quantized', trainable: false});
  }

  /** Name of the format, once there is a value: `nf4`, `fp4`, `int8`, or a registered quantizer's name. */
  get quantType(): string {
    if (this.hosted) return this.hosted.matrix.quantType;
    const {format} = this.value;
    return format.dtype === 'grouped' ? format.quantType : format.dtype;
  }

  /** The weight's type before it was quantized. */
  get sourceDtype(): StorageDtype {
    return this.hosted?.matrix.dtype ?? this.value.sourceDtype;
  }

  override get byteLength(): number {
    if (!this.isAllocated) return 0;
    return this.hosted?.matrix.byteLength ?? storedBytes(this.value.format);
  }

  override get variables(): Parameter[] {
    return [this, ...this.parts.values()];
  }

  override rename(name: string): void {
    super.rename(name);
    for (const [part, parameter] of this.parts) parameter.rename(`${name}.${part}`);
  }

  /**
   * @throws TfjsLoraError `UNSUPPORTED` for the matrix of a quantizer that only its own code reads: Keras would lose it
   */
  override read(): tf.Variable {
    if (!this.hosted) return super.read();
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `weight ${this.originalName}: expected codes and scales, which Keras can save and set, got a matrix that only its ` +
        `quantizer "${this.quantType}" reads. dequantize() the layer first.`,
    );
  }

  override matrix(): StoredMatrix {
    if (this.hosted) return this.hosted;
    const codes = this.read();
    const {format} = this.value;
    const names = Object.keys(storedShapes(format)).filter((name) => name !== 'codes');
    const beside = names.map((name) => [name, this.parts.get(name)!.read()]);
    return {...format, tensors: {codes, ...Object.fromEntries(beside)}} as StoredMatrix;
  }

  /**
   * Quantizes values and stores the result.
   *
   * @param values row-major, float32 or the bits of a 16-bit type
   * @param dtype their type
   * @throws TfjsLoraError `NON_FINITE` naming the weight, and what the quantizer throws
   */
  quantize(values: Float32Array | Uint16Array, dtype: StorageDtype): this {
    const {type, computeDtype, ...options} = this.quantization; // how products are computed does not concern the quantizer
    const shape = this.logicalShape as [number, number];
    return this.writeMatrix(
      getQuantizer(type).quantize(values, shape, {...options, name: this.originalName, dtype}),
    );
  }

  /**
   * Quantizes the bytes of a file's tensor, in {@link valueDtype}, and stores the result.
   *
   * @throws TfjsLoraError as {@link quantize}, `UNSUPPORTED` for a type other than F32, F16 and BF16
   */
  override load(bytes: Uint8Array, dtype: SafetensorsDtype, options: LoadBytesOptions = {}): this {
    assertKnownOptions('load', options, LOAD_BYTES_OPTIONS);
    const {valueDtype} = this;
    if (FLOAT_DTYPES[dtype] === valueDtype && valueDtype !== 'float32')
      return this.quantize(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2), valueDtype);
    return this.quantize(
      fromFloat32(toFloat32(bytes, dtype, options.where ?? this.originalName), valueDtype),
      valueDtype,
    );
  }

  override async toBytes(dtype: StorageDtype): Promise<ArrayBufferView> {
    return fromFloat32((await this.readMatrix()).dequantize(), dtype);
  }

  /** Sets the value to a quantized matrix. */
  writeMatrix(matrix: QuantizedTensor): this {
    if (!tf.util.arraysEqual([...matrix.shape], this.logicalShape)) {
      throw new TfjsLoraError(
        'SHAPE_MISMATCH',
        `weight ${this.originalName}: expected [${this.logicalShape.join(', ')}], got a quantized matrix of ` +
          `[${matrix.shape.join(', ')}]`,
      );
    }
    tf.tidy(() => {
      const storage = storeQuantized(matrix);
      const {codes = tf.zeros([0], 'int32'), ...beside} = tensorsOf(storage);
      if (!this.isAllocated) membersOf(this).shape = codes.shape;
      this.write(codes); // throws if the format is another than before
      this.hosted = storage.dtype === 'hosted' ? storage : undefined;
      if (storage.dtype === 'hosted') return;
      const format = attributesOf(storage) as DeviceFormat;
      for (const [name, tensor] of Object.entries(beside)) this.part(name, tensor.dtype).write(tensor);
      this.part(FORMAT, 'float32').write(tf.tensor1d(formatNumbers(format, matrix.dtype)));
      this.known = {format, sourceDtype: matrix.dtype};
      this.file = matrix instanceof GroupedTensor ? matrix.file : undefined;
    });
    return this;
  }

  /** Reads the value back to the host. */
  readMatrix(): Promise<QuantizedTensor> {
    return readQuantized(this.matrix() as QuantizedMatrix, this.sourceDtype, this.file);
  }

  override dispose(): void {
    for (const part of this.parts.values()) part.dispose();
    this.parts.clear();
    this.known = undefined;
    this.file = undefined;
    this.hosted = undefined;
    super.dispose();
  }

  private part(name: string, dtype: tf.DataType): Part {
    let part = this.parts.get(name);
    if (!part) {
      part = new Part(`${this.originalName}.${name}`, dtype, () => {
        if (name === FORMAT) this.known = undefined;
      });
      this.parts.set(name, part);
    }
    return part;
  }

  private get value(): NonNullable<QuantizedParameter['known']> {
    if (this.known) return this.known;
    this.read(); // throws and names what is missing
    const [rows, cols] = this.logicalShape;
    const numbers = this.parts.get(FORMAT)!.read().dataSync() as Float32Array;
    const value = formatOf(numbers, rows, cols);
    this.assertStored(value?.format);
    this.known = value;
    return value as NonNullable<typeof value>;
  }

  /** Checks that the tensors match the format, because Keras sets them one by one. */
  private assertStored(format: DeviceFormat | undefined): void {
    const shapes = format && storedShapes(format);
    for (const [name, shape] of Object.entries(shapes ?? {})) {
      const got = name === 'codes' ? this.shape : this.parts.get(name)?.shape;
      if (got && tf.util.arraysEqual(got as number[], shape)) continue;
      throw new TfjsLoraError(
        'SHAPE_MISMATCH',
        `weight ${this.originalName}.${name}: expected [${shape}], got ${got ? `[${got}]` : 'none'}. ` +
          'Set all weights of the layer, from a layer of the same quantization.',
      );
    }
    if (shapes) return;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `weight ${this.originalName}.${FORMAT}: expected a format's numbers from a layer with the same quantization, got others`,
    );
  }
}

const FORMAT = 'format';
const DTYPES: readonly StorageDtype[] = ['float32', 'float16', 'bfloat16'];
const FORMATS: readonly DeviceFormat['dtype'][] = ['nf4', 'fp4', 'int8', 'grouped'];
const CODES: readonly GroupedCodes[] = ['uint4', 'uint8', 'e4m3'];

/** Returns a format as numbers: its name, the type before quantization, and three or more of its own. */
function formatNumbers(format: DeviceFormat, sourceDtype: StorageDtype): number[] {
  const names = [FORMATS.indexOf(format.dtype), DTYPES.indexOf(sourceDtype)];
  if (format.dtype === 'int8') return [...names, format.outliers, DTYPES.indexOf(format.outlierDtype), 0];
  if (format.dtype === 'grouped') {
    const {quantType, codeType, groupRows, groupCols, hasZeros, hasIndex} = format;
    const kinds = [GROUPED_TYPES.indexOf(quantType), CODES.indexOf(codeType)];
    return [...names, groupRows, groupCols, ...kinds, Number(hasZeros), Number(hasIndex)];
  }
  return [...names, format.blockSize, format.nestedBlockSize, format.offset];
}

function formatOf(
  numbers: ArrayLike<number>,
  rows: number,
  cols: number,
): {format: DeviceFormat; sourceDtype: StorageDtype} | undefined {
  const dtype = FORMATS[numbers[0]];
  const sourceDtype = DTYPES[numbers[1]];
  const [, , first, second, offset] = Array.from(numbers);
  if (dtype === undefined || sourceDtype === undefined) return undefined;
  const format =
    dtype === 'grouped'
      ? groupedFormat(numbers, rows, cols, sourceDtype)
      : dtype === 'int8'
        ? {dtype, rows, cols, outliers: first, outlierDtype: DTYPES[second]}
        : {dtype, rows, cols, blockSize: first, nestedBlockSize: second, offset, valueDtype: sourceDtype};
  return format && {format: format as DeviceFormat, sourceDtype};
}

function groupedFormat(
  numbers: ArrayLike<number>,
  rows: number,
  cols: number,
  valueDtype: StorageDtype,
): DeviceFormat | undefined {
  const [, , groupRows, groupCols, method, codes, hasZeros, hasIndex] = Array.from(numbers);
  const [quantType, codeType] = [GROUPED_TYPES[method], CODES[codes]];
  if (quantType === undefined || codeType === undefined) return undefined;
  const flags = {hasZeros: hasZeros === 1, hasIndex: hasIndex === 1};
  return {dtype: 'grouped', quantType, rows, cols, codeType, groupRows, groupCols, ...flags, valueDtype};
}

/**
 * A variable that stores something other than the codes. Its shape may change with the value: int8 has as many outliers
 * as the value.
 */
class Part extends Parameter {
  constructor(
    name: string,
    dtype: tf.DataType,
    private readonly onWrite: () => void,
  ) {
    super({name, shape: [0], storage: dtype === 'float32' ? 'float32' : 'quantized', trainable: false});
  }

  override get size(): number {
    return 0; // counted with the codes
  }

  override assertTakes(value: tf.Tensor): void {
    if (value.dtype !== this.dtype) super.assertTakes(value);
  }

  override write(value: tf.Tensor): this {
    this.assertTakes(value);
    this.resize(value.shape);
    super.write(value);
    this.onWrite();
    return this;
  }
}

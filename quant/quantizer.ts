import type {TensorNames, TensorSource} from './bitsandbytesState.ts';
import type {SourceValues} from './blockwise/sourceValues.ts';
import {TfjsLoraError} from './errors.ts';
import type {StorageDtype} from './float16.ts';
import type {MatrixShape, QuantizedTensor} from './quantizedTensor.ts';
import type {TensorToWrite} from './safetensors/writeSafetensors.ts';

/** Options that every quantizer receives; a quantizer may have further options. */
export interface QuantizeOptions {
  /** Values that share a scale. */
  blockSize?: number;
  /** Whether the scales are quantized too. */
  doubleQuant?: boolean;
  /** `bfloat16` or `float16` when the values are 16-bit bits. */
  dtype?: StorageDtype;
  /** The tensor, for messages. */
  name?: string;
  [option: string]: unknown;
}

/** How model files store the matrices of a quantizer. */
export interface QuantizerFiles {
  /**
   * Returns the names of all tensors that store a weight; none if the files store it in another way.
   *
   * @param name the weight, `….q_proj.weight`; the tensors may have this name or others
   */
  keys(name: string, source: TensorNames): string[];
  /**
   * Returns the tensors that store a weight, as {@link keys} finds them.
   *
   * @param settings the layer's quantization; of a model from files, its `quantization_config`
   */
  toTensors(
    name: string,
    matrix: QuantizedTensor,
    settings?: Readonly<Record<string, unknown>>,
  ): TensorToWrite[];
  /**
   * Reads a weight from the tensors that {@link keys} finds.
   *
   * @param dtype dtype of the weight before quantization, if the tensors do not say it
   * @throws TfjsLoraError `SHAPE_MISMATCH`, `CORRUPT_FILE`, naming the tensor
   */
  fromTensors(name: string, source: TensorSource, dtype: StorageDtype): QuantizedTensor;
  /**
   * Checks the `quantization_config` of a method whose config says more than a layer's options do. Its keys are then
   * kept as they are, and saved again. Default: the keys are options, besides `modules_to_not_convert`.
   *
   * @param where the file and its key, for messages
   * @throws TfjsLoraError `UNSUPPORTED` for what is not read, `INVALID_CONFIG` for an impossible value
   */
  assertConfig?(config: Readonly<Record<string, unknown>>, where: string): void;
}

/** A way to store a weight matrix in fewer bits. */
export interface Quantizer {
  /** The `type` in `quantization: {type}`, and the `quantType` of the matrices it makes. */
  readonly name: string;
  /** @throws TfjsLoraError `NON_FINITE`, `SHAPE_MISMATCH`, `INVALID_ARGUMENT`, naming the tensor */
  quantize(values: SourceValues, shape: MatrixShape, options?: QuantizeOptions): QuantizedTensor;
  /** Whether its matrices come from files only, so that `quantize` refuses. Default false. */
  readonly isReadOnly?: boolean;
  /**
   * How model files store its matrices; `quant_method` in `config.json` is then its name. Default: they do not, and a
   * model is saved dequantized.
   */
  readonly files?: QuantizerFiles;
}

/** Returns the error for quantizing with a method that only reads files. `what` names the weight or the option. */
export function readOnlyError(method: string, what: string): TfjsLoraError {
  return new TfjsLoraError(
    'UNSUPPORTED',
    `quantization ${what}: expected nf4, fp4, int8 or a quantizer of your own, got ${method}, which is only read from ` +
      'files that are already quantized.',
  );
}

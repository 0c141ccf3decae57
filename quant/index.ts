/**
 * `tfjs-lora/quant`: number formats and the files that store them.
 *
 * @module tfjs-lora/quant
 */
export {
  bitsandbytesKeys,
  bitsandbytesType,
  fromTensors,
  type TensorNames,
  type TensorSource,
  toTensors,
} from './bitsandbytesState.ts';
export {dynamicMap, FP4_CODE, NF4_CODE} from './blockwise/codebooks.ts';
export {
  type DoubleQuantOptions,
  dequantizeAbsmax,
  NESTED_BLOCK_SIZE,
  type NestedAbsmax,
  quantizeAbsmax,
} from './blockwise/doubleQuantization.ts';
export {
  type Blockwise8Bit,
  type Blockwise8BitOptions,
  type CodeSearch8Bit,
  codesOfSteps,
  dequantizeBlockwise,
  quantizeBlockwise,
} from './blockwise/dynamic8Bit.ts';
export {
  dequantizeFP4,
  dequantizeNF4,
  FOUR_BIT_BLOCK_SIZES,
  type FourBitOptions,
  type FourBitType,
  quantizeFP4,
  quantizeNF4,
} from './blockwise/fourBit.ts';
export {finiteValues, type SourceValues} from './blockwise/sourceValues.ts';
export {torchMean} from './blockwise/torchMean.ts';
export {type ErrorCode, nearestNames, TfjsLoraError} from './errors.ts';
export {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
  type HalfDtype,
  packFloat32Rows,
  packRows,
  type StorageDtype,
  unpackRowBits,
  unpackRows,
  unpackRowsInto,
  wordsPerRow,
} from './float16.ts';
export type {Folder, Pieces, WritableFolder} from './folders/folder.ts';
export type {FolderSource, FolderTarget} from './folders/openFolder.ts';
export type {RunFolder, RunLock, StoredFile} from './folders/runFolder.ts';
export {SafetensorsFolder} from './folders/safetensorsFolder.ts';
export {FourBitTensor, type FourBitTensorParts} from './fourBitTensor.ts';
export {decodeGgml, encodeGgml, type GgmlLayout, type GgmlType, ggmlByteLength} from './gguf/ggmlType.ts';
export {ggmlLayout, ggmlType, ggmlTypeNames} from './gguf/ggmlTypes.ts';
export {GgufFiles} from './gguf/ggufFiles.ts';
export type {GgufTensorInfo} from './gguf/ggufHeader.ts';
export {GgufReader} from './gguf/ggufReader.ts';
export type {GgufArray, GgufScalar, GgufValue, GgufValueType} from './gguf/ggufValue.ts';
export {type GgufFile, type GgufTensor, ggufFile} from './gguf/writeGguf.ts';
export {
  GroupedTensor,
  type GroupedTensorParts,
} from './grouped/groupedTensor.ts';
export {
  type Int8Options,
  Int8Tensor,
  type Int8TensorParts,
  type OutlierColumns,
  quantizeInt8,
} from './int8.ts';
export {assertKnownArgs, assertKnownOptions, type OptionNames} from './knownOptions.ts';
export {type MatrixShape, type QuantizedTensor, rowsTarget} from './quantizedTensor.ts';
export type {QuantizeOptions, Quantizer, QuantizerFiles} from './quantizer.ts';
export {getQuantizer, quantizerNames, registerQuantizer} from './quantizerRegistry.ts';
export type {FileBytes} from './safetensors/fileBytes.ts';
export type {SafetensorsDtype} from './safetensors/safetensorsDtype.ts';
export {SafetensorsFile} from './safetensors/safetensorsFile.ts';
export type {TensorInfo, TensorSpec} from './safetensors/safetensorsHeader.ts';
export {toFloat32} from './safetensors/toFloat32.ts';
export {type TensorToWrite, writeSafetensors} from './safetensors/writeSafetensors.ts';
export {
  type ShardedWriteOptions,
  type ShardedWriteResult,
  writeShardedSafetensors,
} from './safetensors/writeShardedSafetensors.ts';

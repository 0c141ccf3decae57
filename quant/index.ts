/** `tfjs-lora/quant`: number formats and the files that hold them. */
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
export {SafetensorsCheckpoint} from './safetensors/safetensorsCheckpoint.ts';
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

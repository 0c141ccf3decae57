import {TfjsLoraError} from '../errors.ts';
import {bfloat16ToFloat32, float16ToFloat32} from '../float16.ts';
import type {SafetensorsDtype} from './safetensorsDtype.ts';

/**
 * Converts the bytes of an F32, F16 or BF16 tensor to float32 values, exactly. F32 bytes that start on a 4-byte
 * boundary are viewed, not copied.
 *
 * @param what the tensor, for messages
 * @throws TfjsLoraError `UNSUPPORTED` for other dtypes
 */
export function toFloat32(bytes: Uint8Array, dtype: SafetensorsDtype, what: string): Float32Array {
  if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16') {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${what}: expected dtype F32, F16 or BF16 to read as float32, got ${dtype}. Read its bytes instead.`,
    );
  }
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  if (dtype === 'F32') return new Float32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4);
  const bits = new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.length / 2);
  return dtype === 'F16' ? float16ToFloat32(bits) : bfloat16ToFloat32(bits);
}

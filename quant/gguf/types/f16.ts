import {float16ToFloat32, float32ToFloat16} from '../../float16.ts';
import type {GgmlType} from '../ggmlType.ts';
import {wordsOf} from './wordsOf.ts';

/** float16, little endian. */
export const f16: GgmlType = {
  id: 1,
  name: 'F16',
  valuesPerBlock: 1,
  bytesPerBlock: 2,
  decode: (bytes, out) => void float16ToFloat32(wordsOf(bytes), out),
  encode: (values, out) => out.set(new Uint8Array(float32ToFloat16(values).buffer)),
};

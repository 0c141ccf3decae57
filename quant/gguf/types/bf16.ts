import {bfloat16ToFloat32, float32ToBfloat16} from '../../float16.ts';
import type {GgmlType} from '../ggmlType.ts';
import {wordsOf} from './wordsOf.ts';

/** bfloat16, little endian. */
export const bf16: GgmlType = {
  id: 30,
  name: 'BF16',
  valuesPerBlock: 1,
  bytesPerBlock: 2,
  decode: (bytes, out) => void bfloat16ToFloat32(wordsOf(bytes), out),
  encode: (values, out) => out.set(new Uint8Array(float32ToBfloat16(values).buffer)),
};

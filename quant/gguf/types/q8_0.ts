import {blockType} from '../ggmlType.ts';
import {halfAt} from './halfAt.ts';

/** 32 values: scale d (float16), 32 signed bytes q. A value is `d · q`. */
export const q8_0 = blockType({
  id: 8,
  name: 'Q8_0',
  valuesPerBlock: 32,
  bytesPerBlock: 34,
  decodeBlock(bytes, at, out, to) {
    const scale = halfAt(bytes, at);
    for (let i = 0; i < 32; i++) out[to + i] = scale * ((bytes[at + 2 + i] << 24) >> 24);
  },
});

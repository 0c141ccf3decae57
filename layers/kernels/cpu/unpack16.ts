import {unpackRows} from '../../../quant/float16.ts';
import {unpack16Op} from '../../ops/unpack16.ts';
import {kernel} from '../kernel.ts';

/** `Unpack16` (layers/ops/unpack16.ts) in one pass. */
export const unpack16 = kernel(unpack16Op, 'cpu', ({inputs: {packed}, attrs: {dtype, cols}, backend}) => {
  const [rows] = packed.shape;
  const words = backend.data.get(packed.dataId).values as Int32Array;
  return backend.makeTensorInfo([rows, cols], 'float32', unpackRows(words, rows, cols, dtype));
});

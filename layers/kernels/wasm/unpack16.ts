import {unpack16Op} from '../../ops/unpack16.ts';
import {kernel} from '../kernel.ts';
import {ELEMENT_TYPES, gemmOf} from './native/gemm.ts';
import {offsetOf} from './wasmBackend.ts';

/** `Unpack16` (layers/ops/unpack16.ts), four values at a time. */
export const unpack16 = kernel(unpack16Op, 'wasm', ({inputs: {packed}, attrs: {dtype, cols}, backend}) => {
  const [rows, words] = packed.shape;
  const out = backend.makeOutput([rows, cols], 'float32');
  const source = offsetOf(backend, packed);
  const {exports} = gemmOf(backend);
  exports.widen(source, offsetOf(backend, out), rows, cols, 2 * words, ELEMENT_TYPES[dtype]);
  return out;
});

import type {GgmlType} from '../ggmlType.ts';

/** float32, little endian. */
export const f32: GgmlType = {
  id: 0,
  name: 'F32',
  valuesPerBlock: 1,
  bytesPerBlock: 4,
  // Bytes, not numbers: reading a NaN as a JavaScript number may change its payload.
  decode: (bytes, out) => new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes),
  encode: (values, out) => out.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength)),
};

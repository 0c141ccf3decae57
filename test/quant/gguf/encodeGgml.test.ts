import {createHash} from 'node:crypto';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {decodeGgml, encodeGgml} from '../../../quant/gguf/ggmlType.ts';
import {ggmlType} from '../../../quant/gguf/ggmlTypes.ts';

const golden: {values: string; encoded: Record<string, {sha256: string; first: string}>} = JSON.parse(
  readFileSync(join(__dirname, '../../parity/gguf/fixtures/encoded.json'), 'utf8'),
);
const sha256 = (bytes: NodeJS.ArrayBufferView) => createHash('sha256').update(bytes).digest('hex');

/** The values of `series()` in `make_gguf_encoded.py`. */
function series(): Float32Array {
  let state = 1;
  return Float32Array.from({length: 256 * 24}, (_, i) => {
    let total = 0;
    for (let draw = 0; draw < 3; draw++) {
      state = (state * 48271) % 2147483647;
      total += (state % 4096) - 2048;
    }
    const value = total / 65536;
    const row = Math.floor(i / 32);
    switch (Math.floor(i / 256) % 8) {
      case 1:
        return value * 2 ** (-(row % 8) * 5);
      case 2:
        return Math.abs(value);
      case 3:
        return Math.floor(total / 1024);
      case 4:
        return total % 8 === 0 ? value : 0;
      case 5:
        return row % 3 === 0 ? 0 : value;
      case 6:
        return Math.floor(i / 256) % 16 === 6 ? 0 : (Math.floor(i / 64) % 5) - 2;
      default:
        return value;
    }
  });
}

describe('encodeGgml', () => {
  const values = series();
  it('has the values that llama.cpp encoded', () => expect(sha256(values)).toBe(golden.values));

  it.each(Object.entries(golden.encoded))('encodes %s to the bytes of llama.cpp', (name, expected) => {
    const bytes = encodeGgml(ggmlType(name), values);
    expect({sha256: sha256(bytes), first: Buffer.from(bytes.subarray(0, 32)).toString('hex')}).toEqual(
      expected,
    );
  });

  it.each(['F32', 'F16', 'BF16'])('encodes %s so that it decodes to the rounded values', (name) => {
    const type = ggmlType(name);
    const bytes = encodeGgml(type, values);
    const once = decodeGgml(type, bytes);
    expect(encodeGgml(type, once)).toEqual(bytes);
    const tolerance = {F32: 0, F16: 2 ** -11, BF16: 2 ** -8}[name] as number;
    const worst = once.reduce((most, value, i) => Math.max(most, Math.abs(value - values[i])), 0);
    expect(worst).toBeLessThanOrEqual(4 * tolerance);
  });
});

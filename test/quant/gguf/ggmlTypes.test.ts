import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {decodeGgml, encodeGgml, ggmlByteLength} from '../../../quant/gguf/ggmlType.ts';
import {ggmlLayout, ggmlType, ggmlTypeNames} from '../../../quant/gguf/ggmlTypes.ts';

const golden: Record<string, {bytes: string; values: string}> = JSON.parse(
  readFileSync(join(__dirname, '../../parity/gguf/fixtures/blocks.json'), 'utf8'),
);
const bytesOf = (text: string) => new Uint8Array(Buffer.from(text, 'base64'));

describe('GGML types', () => {
  it('has a golden case for each', () => expect(ggmlTypeNames().sort()).toEqual(Object.keys(golden).sort()));

  describe.each(Object.entries(golden))('%s', (name, {bytes, values}) => {
    const type = ggmlType(name);
    const blocks = bytesOf(bytes);
    const expected = new Int32Array(bytesOf(values).buffer);
    const isNaNBits = (word: number) => (word & 0x7fffffff) > 0x7f800000;

    it('decodes every block to the bits of PyPI’s gguf', () => {
      const decoded = new Int32Array(decodeGgml(type, blocks).buffer);
      expect(decoded.length).toBe(expected.length);
      const differs = expected.findIndex(
        (word, i) => word !== decoded[i] && !(isNaNBits(word) && isNaNBits(decoded[i])),
      );
      expect({differs, got: decoded[differs]}).toEqual({differs: -1, got: undefined});
    });

    it('decodes blocks at odd addresses', () => {
      const shifted = new Uint8Array(blocks.length + 1);
      shifted.set(blocks, 1);
      expect(new Int32Array(decodeGgml(type, shifted.subarray(1)).buffer)).toEqual(
        new Int32Array(decodeGgml(type, blocks).buffer),
      );
    });

    it('refuses part of a block', () => {
      expect(() => decodeGgml(type, new Uint8Array(type.bytesPerBlock + type.bytesPerBlock / 2))).toThrow(
        `GGML type [${name}]: expected whole blocks of ${type.bytesPerBlock} bytes`,
      );
    });
  });

  it('counts bytes of whole blocks only', () => {
    expect(ggmlByteLength(ggmlType('q4_k'), 512)).toBe(288);
    expect(() => ggmlByteLength(ggmlType('Q4_K'), 300)).toThrow(
      'expected whole blocks of 256 values, got 300',
    );
  });

  it('refuses other types by name', () => {
    expect(ggmlLayout(39)).toEqual({id: 39, name: 'MXFP4', valuesPerBlock: 32, bytesPerBlock: 17});
    expect(() => ggmlType(39, 'blk.0.ffn_up.weight')).toThrow(
      /^blk\.0\.ffn_up\.weight \[GGML type\]: expected one of F32, F16, .*, got MXFP4\./,
    );
    expect(() => ggmlType(99)).toThrow('got number 99');
  });

  it('refuses to write a type without an encoder', () => {
    expect(() => encodeGgml(ggmlType('Q2_K'), new Float32Array(256))).toThrow(
      'GGML type [Q2_K]: expected a type that can be written, got one that is only read.',
    );
  });
});

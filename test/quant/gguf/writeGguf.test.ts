import {ggmlType} from '../../../quant/gguf/ggmlTypes.ts';
import type {GgufValue} from '../../../quant/gguf/ggufValue.ts';
import {type GgufTensor, ggufFile} from '../../../quant/gguf/writeGguf.ts';

async function bytesOf(metadata: Map<string, GgufValue>, tensors: GgufTensor[]): Promise<Buffer> {
  const {byteLength, pieces} = ggufFile(metadata, tensors, 'model.gguf');
  const parts: Uint8Array[] = [];
  for await (const piece of pieces()) parts.push(piece);
  const bytes = Buffer.concat(parts);
  expect(bytes.length).toBe(byteLength);
  return bytes;
}

const tensor = (name: string, values: number[], shape: number[]): GgufTensor => ({
  name,
  type: ggmlType('F32'),
  shape,
  data: () => Float32Array.from(values),
});

describe('ggufFile', () => {
  it('writes header, metadata and tensors at multiples of 32 bytes', async () => {
    const bytes = await bytesOf(
      new Map<string, GgufValue>([
        ['a', {type: 'uint32', value: 7}],
        ['b', {type: 'string', value: 'é'}],
        ['c', {type: 'array', items: {type: 'bool', values: [true, false]}}],
      ]),
      [tensor('x', [1, 2, 3], [3]), tensor('y', [4, 5, 6, 7, 8, 9], [2, 3])],
    );
    const u64 = (value: number) => {
      const out = Buffer.alloc(8);
      out.writeBigUInt64LE(BigInt(value));
      return out;
    };
    const u32 = (value: number) => {
      const out = Buffer.alloc(4);
      out.writeUInt32LE(value);
      return out;
    };
    const text = (value: string) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);
    const header = Buffer.concat([
      ...[Buffer.from('GGUF'), u32(3), u64(2), u64(3)],
      ...[text('a'), u32(4), u32(7)],
      ...[text('b'), u32(8), text('é')],
      ...[text('c'), u32(9), u32(7), u64(2), Buffer.from([1, 0])],
      ...[text('x'), u32(1), u64(3), u32(0), u64(0)],
      ...[text('y'), u32(2), u64(3), u64(2), u32(0), u64(32)],
    ]);
    const begin = Math.ceil(header.length / 32) * 32;
    expect(bytes.subarray(0, header.length)).toEqual(header);
    expect(bytes.subarray(header.length, begin).every((byte) => byte === 0)).toBe(true);
    expect(bytes.length).toBe(begin + 64);
    expect([0, 4, 8].map((at) => bytes.readFloatLE(begin + at))).toEqual([1, 2, 3]);
    expect([0, 4, 8, 12, 16, 20].map((at) => bytes.readFloatLE(begin + 32 + at))).toEqual([4, 5, 6, 7, 8, 9]);
  });

  it('reads a tensor only when the one before it is written', async () => {
    const log: string[] = [];
    const read = (name: string): GgufTensor => ({
      ...tensor(name, [1], [1]),
      data: () => {
        log.push(name);
        return new Float32Array(1);
      },
    });
    const {pieces} = ggufFile(new Map(), [read('x'), read('y')], 'model.gguf');
    for await (const piece of pieces()) log.push(`${piece.length}`);
    expect(log).toEqual(['96', 'x', '4', '28', 'y', '4', '28']);
  });

  it('refuses rows that are not whole blocks, missing bytes, and names', async () => {
    const file = (tensors: GgufTensor[]) => () => ggufFile(new Map(), tensors, 'model.gguf');
    expect(file([{...tensor('x', [], [2, 100]), type: ggmlType('Q8_0')}])).toThrow(
      'GGML type [Q8_0]: expected whole blocks of 32 values, got 100',
    );
    expect(file([tensor('x', [], [1]), tensor('x', [], [1])])).toThrow(
      'tensor name [model.gguf]: expected 1 to 63 bytes that no other tensor has, got "x"',
    );
    expect(file([tensor('x'.repeat(64), [], [1])])).toThrow('expected 1 to 63 bytes');
    await expect(bytesOf(new Map(), [tensor('x', [1], [2])])).rejects.toThrow(
      'tensor x [model.gguf]: expected 8 bytes for F32 [2], got 4',
    );
  });
});

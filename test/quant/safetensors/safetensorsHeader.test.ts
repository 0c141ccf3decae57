import fc from 'fast-check';
import {TfjsLoraError} from '../../../quant/index.ts';
import {buildHeader, parseHeader} from '../../../quant/safetensors/safetensorsHeader.ts';

const PATH = 'folder/model.safetensors';

function parse(header: object | string | Uint8Array, dataBytes = 0) {
  const text = typeof header === 'string' ? header : JSON.stringify(header);
  return parseHeader(header instanceof Uint8Array ? header : new TextEncoder().encode(text), dataBytes, PATH);
}

/** Makes `{"x": {dtype: F32, shape: [1], data_offsets: [0, 4]}}` with parts of the entry replaced. */
function withX(change: object): object {
  return {x: {dtype: 'F32', shape: [1], data_offsets: [0, 4], ...change}};
}

const f32 = (begin: number, end: number) => ({
  dtype: 'F32',
  shape: [(end - begin) / 4],
  data_offsets: [begin, end],
});

describe('parseHeader', () => {
  test('lists tensors in the order of their bytes', () => {
    const {tensors, metadata} = parse(
      {b: f32(4, 12), z: f32(0, 0), a: f32(0, 4), __metadata__: {format: 'pt'}},
      12,
    );
    expect([...tensors]).toEqual([
      ['z', {dtype: 'F32', shape: [0], begin: 0, end: 0}],
      ['a', {dtype: 'F32', shape: [1], begin: 0, end: 4}],
      ['b', {dtype: 'F32', shape: [2], begin: 4, end: 12}],
    ]);
    expect(metadata).toEqual({format: 'pt'});
  });

  test('reads no tensors, null metadata, trailing space, extra fields and odd names', () => {
    expect(parse('{}').tensors.size).toBe(0);
    expect(parse('{"__metadata__":null} \n ').metadata).toEqual({});
    const entry = '{"dtype":"U8","shape":[],"data_offsets":[0,1],"extra":[{}]}';
    expect([...parse(`{"__proto__":${entry}}`, 1).tensors.keys()]).toEqual(['__proto__']);
    expect([...parse(`{"":${entry}}`, 1).tensors.keys()]).toEqual(['']);
  });

  test.each([
    ['BOOL', 6],
    ['F4', 3],
    ['F8_E4M3', 6],
    ['F8_E5M2', 6],
    ['I16', 12],
    ['U16', 12],
    ['U32', 24],
    ['F64', 48],
    ['U64', 48],
    ['C64', 48],
  ])('knows the size of %s', (dtype, bytes) => {
    const {tensors} = parse({x: {dtype, shape: [2, 3], data_offsets: [0, bytes]}}, bytes);
    expect(tensors.get('x')).toEqual({dtype, shape: [2, 3], begin: 0, end: bytes});
  });

  test.each<[string, object | string | Uint8Array, number, RegExp]>([
    ['not UTF-8', Uint8Array.of(0x7b, 0xff, 0x7d), 0, /safetensors header .*expected UTF-8/],
    ['a byte order mark', '\ufeff{}', 0, /expected a JSON object/],
    ['an array', '[]', 0, /expected a JSON object, got "\[\]"/],
    ['space before the object', ' {}', 0, /expected a JSON object/],
    ['cut JSON', '{"x":', 0, /expected valid JSON/],
    ['text after the JSON', '{}x', 0, /expected valid JSON/],
    [
      'a duplicate tensor',
      `{"x":${JSON.stringify(f32(0, 4))},"x":${JSON.stringify(f32(0, 4))}}`,
      4,
      /key "x" twice/,
    ],
    [
      'a duplicate field',
      '{"x":{"dtype":"F32","dtype":"F16","shape":[],"data_offsets":[0,2]}}',
      2,
      /"dtype" twice/,
    ],
    ['deep nesting', `{"x":${'['.repeat(100)}`, 0, /nesting deeper than 64/],
    [
      'metadata that is an array',
      {__metadata__: []},
      0,
      /__metadata__ .*expected an object of strings, got \[\]/,
    ],
    ['metadata that is a number', {__metadata__: {a: 1}}, 0, /__metadata__ "a" .*expected a string, got 1/],
    ['an entry that is null', {x: null}, 0, /Tensor "x" .*expected \{dtype, shape, data_offsets\}, got null/],
    [
      'no dtype',
      withX({dtype: undefined}),
      4,
      /Tensor "x" .*expected dtype to be one of .*F32.*, got undefined/,
    ],
    ['an unknown dtype', withX({dtype: 'F31'}), 4, /expected dtype to be one of .*, got "F31"/],
    ['an inherited dtype', withX({dtype: 'toString'}), 4, /expected dtype to be one of .*, got "toString"/],
    ['no shape', withX({shape: undefined}), 4, /expected shape to be an array, got undefined/],
    ['a negative size', withX({shape: [-1]}), 4, /Tensor "x" .*whole numbers of at least 0, got \[-1\]/],
    ['a minus zero', '{"x":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}', 0, /at least 0, got \[-0\]/],
    ['a fraction', withX({shape: [0.5]}), 4, /whole numbers of at least 0, got \[0.5\]/],
    ['a size that is text', withX({shape: ['1']}), 4, /whole numbers of at least 0, got \["1"\]/],
    ['an uncountable size', withX({shape: [2 ** 53]}), 4, /whole numbers of at least 0/],
    ['an uncountable product', withX({shape: [2 ** 30, 2 ** 30, 0]}), 4, /expected fewer than 2\^53 bits/],
    [
      'half a byte',
      withX({dtype: 'F4', shape: [3], data_offsets: [0, 2]}),
      2,
      /F4 \(4 bits\) to fill whole bytes/,
    ],
    [
      'no offsets',
      withX({data_offsets: undefined}),
      4,
      /expected data_offsets to be \[begin, end\], got undefined/,
    ],
    ['one offset', withX({data_offsets: [4]}), 4, /data_offsets to be \[begin, end\], got \[4\]/],
    [
      'three offsets',
      withX({data_offsets: [0, 4, 8]}),
      8,
      /data_offsets to be \[begin, end\], got \[0,4,8\]/,
    ],
    [
      'a negative offset',
      withX({data_offsets: [-4, 0]}),
      4,
      /data_offsets to be \[begin, end\], got \[-4,0\]/,
    ],
    ['offsets in reverse', withX({data_offsets: [4, 0]}), 4, /expected data_offsets in order, got \[4, 0\]/],
    [
      'too few bytes',
      withX({shape: [2]}),
      4,
      /expected 8 bytes for F32 \[2\], got data_offsets \[0, 4\], 4 bytes/,
    ],
    [
      'an end past the data',
      withX({}),
      3,
      /Tensor "x" .*expected 4 bytes of data, got 3: the file is cut short/,
    ],
    [
      'an overlap',
      {a: f32(0, 8), b: f32(4, 12)},
      12,
      /Tensor "b" .*after tensor "a", got 4: the two overlap/,
    ],
    ['the same bytes twice', {a: f32(0, 4), b: f32(0, 4)}, 4, /the two overlap/],
    [
      'a hole',
      {a: f32(0, 4), b: f32(8, 12)},
      12,
      /Tensor "b" .*start at 4, got 8: bytes between belong to no/,
    ],
    ['a hole at the start', withX({data_offsets: [4, 8]}), 8, /Tensor "x" .*start at 0, got 4/],
    ['an empty tensor within another', {a: f32(0, 8), b: f32(4, 4)}, 8, /Tensor "b" .*overlap/],
    ['bytes after the last tensor', withX({}), 5, /safetensors data .*expected 4 bytes of data, got 5/],
    ['half a surrogate pair', '{"\\ud800":1}', 0, /expected a name of whole Unicode characters/],
  ])('refuses %s', (_, header, dataBytes, message) => {
    let error: unknown;
    try {
      parse(header, dataBytes);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(TfjsLoraError);
    const {code, message: text} = error as TfjsLoraError;
    expect(code).toBe('CORRUPT_FILE');
    expect(text).toMatch(message);
    expect(text).toContain(`[${PATH}]`);
    expect(text).toContain('download or save it again');
  });

  test('keeps messages short whatever the file contains', () => {
    expect(() => parse({['x'.repeat(100_000)]: 'y'.repeat(100_000)})).toThrow(/^.{0,500}$/);
  });

  test('throws only TfjsLoraError for any header', () => {
    const count = fc.oneof(fc.integer({min: -1, max: 8}), fc.constantFrom(0.5, null, 2 ** 53, 2 ** 31));
    const entry = fc.record(
      {
        dtype: fc.constantFrom('F32', 'U8', 'I64', 'F4', 'F99', 3),
        shape: fc.oneof(fc.array(count, {maxLength: 3}), fc.jsonValue()),
        data_offsets: fc.oneof(fc.tuple(count, count), fc.jsonValue()),
      },
      {requiredKeys: []},
    );
    const name = fc.oneof(fc.string(), fc.constantFrom('a', '__metadata__', '__proto__'));
    const header = fc.dictionary(name, fc.oneof({weight: 4, arbitrary: entry}, fc.jsonValue()));
    const text = header.map((value) => JSON.stringify(value));
    const damaged = fc.tuple(text, fc.nat(), fc.string({maxLength: 2})).map(([json, at, patch]) => {
      const cut = at % (json.length + 1);
      return json.slice(0, cut) + patch + json.slice(cut + 1);
    });
    const bytes = fc.oneof(
      fc.oneof(text, damaged).map((json) => new TextEncoder().encode(json)),
      fc.uint8Array(),
    );
    fc.assert(
      fc.property(bytes, fc.nat(64), (header, dataBytes) => {
        try {
          let covered = 0;
          for (const {begin, end} of parseHeader(header, dataBytes, PATH).tensors.values()) {
            expect(begin).toBe(covered);
            covered = end;
          }
          expect(covered).toBe(dataBytes);
        } catch (error) {
          if (!(error instanceof TfjsLoraError)) throw error;
          expect(error.code).toBe('CORRUPT_FILE');
        }
      }),
      {numRuns: 3000},
    );
  });
});

describe('buildHeader', () => {
  const tensor = fc.record({
    name: fc.oneof(fc.string({unit: 'grapheme'}), fc.nat(20).map(String), fc.constant('__proto__')),
    dtype: fc.constantFrom('F32', 'F16', 'BF16', 'I8', 'U8', 'I32', 'I64', 'BOOL', 'F64'),
    shape: fc.array(fc.nat(5), {maxLength: 3}),
  } as const);

  test('builds what parseHeader reads back, for any tensors and metadata', () => {
    const tensors = fc.uniqueArray(tensor, {selector: ({name}) => name, maxLength: 8});
    const metadata = fc.dictionary(fc.string({unit: 'grapheme'}), fc.string({unit: 'grapheme'}));
    fc.assert(
      fc.property(tensors, metadata, (tensors, metadata) => {
        fc.pre(tensors.every(({name}) => name !== '__metadata__'));
        const {bytes, ordered} = buildHeader(tensors, metadata, PATH);
        const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
        expect(length).toBe(bytes.length - 8);
        expect(length % 8).toBe(0);
        const dataBytes = ordered.reduce((sum, {dtype, shape}) => {
          const bits = dtype === 'BOOL' ? 8 : Number(/\d+/.exec(dtype)![0]);
          return sum + (shape.reduce((a, b) => a * b, 1) * bits) / 8;
        }, 0);
        const header = parseHeader(bytes.subarray(8), dataBytes, PATH);
        expect(header.metadata).toEqual(metadata);
        const read = [...header.tensors].map(([name, {dtype, shape}]) => ({name, dtype, shape}));
        const byName = (list: {name: string}[]) => list.toSorted((a, b) => (a.name < b.name ? -1 : 1));
        expect(byName(read)).toEqual(byName(tensors));
      }),
    );
  });

  test.each<[string, {name: unknown; dtype: unknown; shape: unknown}[], Record<string, unknown>, RegExp]>([
    ['a name twice', [spec({}), spec({})], {}, /tensor "x" \[.*\]: expected each name once, got it twice/],
    ['the reserved name', [spec({name: '__metadata__'})], {}, /other than __metadata__/],
    ['half a surrogate pair', [spec({name: 'a\udc00'})], {}, /whole Unicode characters/],
    ['an unknown dtype', [spec({dtype: 'float32'})], {}, /expected dtype to be one of .*, got "float32"/],
    ['a negative size', [spec({shape: [-1]})], {}, /tensor "x" .*whole numbers of at least 0, got \[-1\]/],
    ['metadata of a number', [], {a: 1}, /__metadata__ "a" .*expected a string, got 1/],
  ])('refuses %s', (_, tensors, metadata, message) => {
    const build = () => buildHeader(tensors as never, metadata as never, PATH);
    expect(build).toThrow(TfjsLoraError);
    expect(build).toThrow(message);
  });

  function spec(change: object) {
    return {name: 'x', dtype: 'F32', shape: [1], ...change};
  }

  test('refuses a header that no reader would accept', () => {
    const tensors = Array.from({length: 1001}, (_, i) => spec({name: `${i}${'x'.repeat(100_000)}`}));
    expect(() => buildHeader(tensors as never, {}, PATH)).toThrow(/expected at most 100000000 bytes/);
  });
});

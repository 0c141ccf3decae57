import fc from 'fast-check';
import {show} from '../../quant/show.ts';

describe('show', () => {
  test('writes short values as JSON does', () => {
    fc.assert(
      fc.property(fc.jsonValue({maxDepth: 4, stringUnit: 'grapheme-ascii'}), (value) => {
        const json = JSON.stringify(value);
        const shown = show(value);
        if (json.length <= 150) expect(shown.replace(/-0(?=[,\]}]|$)/g, '0')).toBe(json);
        else expect(json.startsWith(shown.replace(/-0(?=[,\]}])/g, '0').slice(0, 140))).toBe(true);
      }),
    );
  });

  test.each([
    [undefined, 'undefined'],
    [Number.NaN, 'NaN'],
    [-0, '-0'],
    [2n ** 70n, '1180591620717411303424'],
    [-(2n ** 100_000n), 'an integer below -2^256'],
    [Symbol('layer'), 'Symbol(layer)'],
    [/a+b/i, '/a+b/i'],
    [new Map([['a', [1n]]]), '{"a":[1]}'],
    [new Set(['a']), '["a"]'],
    [Float32Array.of(1, 0.5), '[1,0.5]'],
    [Object.assign(Object.create(null), {a: null}), '{"a":null}'],
    [{a: undefined, b: [undefined]}, '{"b":[undefined]}'],
    [
      {toString: () => 1, toJSON: () => 1, valueOf: null},
      '{"toString":function "toString","toJSON":function "toJSON","valueOf":null}',
    ],
    [{shape: [2, 3], dtype: 'int32', dataId: {}}, 'tensor [2,3] of int32'],
    ['\u009b31mred\u202e', '"\\u009b31mred\\u202e"'],
  ])('%#: writes values that JSON cannot represent', (value, expected) => {
    expect(show(value)).toBe(expected);
  });

  test('cuts long texts, between characters', () => {
    expect(show('x'.repeat(1e6))).toBe(`"${'x'.repeat(149)}…`);
    expect(show(`${'x'.repeat(148)}😀`)).toBe(`"${'x'.repeat(148)}…`);
    expect(show(new Array(1e6).fill(7))).toBe(`[${'7,'.repeat(100).slice(0, 149)}…`);
  });

  test('stops when a value contains itself or is deeply nested', () => {
    const cyclic: Record<string, unknown> = {};
    cyclic.self = cyclic;
    expect(show(cyclic)).toBe(`${'{"self":'.repeat(8)}…${'}'.repeat(8)}`);
    let deep: unknown = 1;
    for (let i = 0; i < 100_000; i++) deep = [deep];
    expect(show(deep)).toBe('[[[[[[[[…]]]]]]]]');
  });

  test('never throws', () => {
    const throwing = new Proxy(
      {},
      {
        ownKeys: () => {
          throw new Error('no');
        },
      },
    );
    expect(show([1, throwing])).toBe('[1,a value that cannot be shown');
    fc.assert(
      fc.property(
        fc.anything({
          withBigInt: true,
          withDate: true,
          withMap: true,
          withNullPrototype: true,
          withSet: true,
          withSparseArray: true,
          withTypedArray: true,
        }),
        (value) => {
          expect(show(value).length).toBeLessThanOrEqual(151);
        },
      ),
    );
  });
});

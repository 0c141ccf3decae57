import fc from 'fast-check';
import {nearestNames, TfjsLoraError} from '../../quant/index.ts';

test('TfjsLoraError is an Error with a code, a name and a cause', () => {
  const cause = new Error('below');
  const error = new TfjsLoraError('CORRUPT_FILE', 'x [y]: expected a, got b.', {cause});
  expect(error).toBeInstanceOf(Error);
  expect(error).toMatchObject({code: 'CORRUPT_FILE', name: 'TfjsLoraError', cause});
  expect(String(error)).toBe('TfjsLoraError: x [y]: expected a, got b.');
});

describe('nearestNames', () => {
  test.each([
    ['q_prj', ['q_proj', 'k_proj', 'o_proj']],
    ['down', ['down_proj', 'k_proj', 'o_proj']],
  ])('finds those of %s, ties by name', (name, expected) => {
    expect(nearestNames(name, ['v_proj', 'k_proj', 'q_proj', 'o_proj', 'down_proj', 'q_proj'])).toEqual(
      expected,
    );
  });

  test('finds a name that is one edit away before any other', () => {
    const letters = fc.string({unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 8});
    fc.assert(
      fc.property(
        letters,
        fc.nat(),
        fc.array(letters.map((text) => `${text}_far_away`)),
        (name, at, others) => {
          const cut = at % name.length;
          const typo = name.slice(0, cut) + name.slice(cut + 1);
          expect(nearestNames(typo, [...others, name], 1)).toEqual([name]);
        },
      ),
    );
  });

  test('returns as many as requested, each once, and none of an empty list', () => {
    expect(nearestNames('a', ['b', 'b', 'c'], 5)).toEqual(['b', 'c']);
    expect(nearestNames('a', ['b', 'c'], 1)).toEqual(['b']);
    expect(nearestNames('a', [])).toEqual([]);
  });

  test('ranks as a full sort of all distances does', () => {
    const names = fc.string({unit: fc.constantFrom('a', 'b', '.'), maxLength: 7});
    fc.assert(
      fc.property(
        names,
        fc.array(names, {maxLength: 20}),
        fc.integer({min: 1, max: 4}),
        (name, known, count) => {
          const sorted = [...new Set(known)].sort(
            (a, b) => distance(name, a) - distance(name, b) || a.localeCompare(b),
          );
          expect(nearestNames(name, known, count)).toEqual(sorted.slice(0, count));
        },
      ),
    );
  });

  test('compares a hundred thousand names, or a few of a million letters, in a bounded number of steps', () => {
    const names = Array.from(
      {length: 100_000},
      (_, i) => `model.layers.${i}.${'self_attn'.repeat(i % 5)}.weight`,
    );
    expect(nearestNames('model.layers.99991.self_attn.weigth', names, 1)).toEqual([
      'model.layers.99991.self_attn.weight',
    ]);
    const long = ['a', 'b', 'c'].map((letter) => letter.repeat(1_000_000));
    expect(nearestNames('b'.repeat(999_999), long, 1)).toEqual([long[1]]);
  });

  test('accepts a name that is not a string', () => {
    expect(nearestNames(Object.create(null), ['{a}', 'other'], 1)).toEqual(['{a}']);
    expect(nearestNames(Symbol('q_proj'), ['q_proj', 'v'], 1)).toEqual(['q_proj']);
  });
});

/** Computes the edit distance by its definition. */
function distance(a: string, b: string): number {
  if (a === '' || b === '') return a.length + b.length;
  return Math.min(
    distance(a.slice(1), b) + 1,
    distance(a, b.slice(1)) + 1,
    distance(a.slice(1), b.slice(1)) + (a[0] === b[0] ? 0 : 1),
  );
}

test('cuts a long message, whatever it contains', () => {
  const {message} = new TfjsLoraError(
    'INVALID_CONFIG',
    `key ${'x'.repeat(1_000_000)}: expected a shorter one.`,
  );
  expect(message).toHaveLength(20_001);
  expect(message).toMatch(/^key x+…$/);
});

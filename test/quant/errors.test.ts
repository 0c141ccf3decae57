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
  ])('of %s, ties by name', (name, expected) => {
    expect(nearestNames(name, ['v_proj', 'k_proj', 'q_proj', 'o_proj', 'down_proj', 'q_proj'])).toEqual(
      expected,
    );
  });

  test('finds a name one edit away before any further one', () => {
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

  test('gives as many as asked, each once, and none of none', () => {
    expect(nearestNames('a', ['b', 'b', 'c'], 5)).toEqual(['b', 'c']);
    expect(nearestNames('a', ['b', 'c'], 1)).toEqual(['b']);
    expect(nearestNames('a', [])).toEqual([]);
  });
});

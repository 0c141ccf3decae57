import {assertOwnCards} from '../../../../src/training/cluster/assertOwnCards.ts';

describe('assertOwnCards', () => {
  const own = (host: string, id?: string) => ({host, card: id && `NVIDIA H200 ${id}`});

  test('accepts a card for each rank of a host, and ranks without one', () => {
    expect(() =>
      assertOwnCards([own('a', '1'), own('a', '2'), own('b', '1'), own('c'), null, null]),
    ).not.toThrow();
  });

  test('refuses ranks of a host that share a card', () => {
    expect(() => assertOwnCards([own('a', '1'), own('a', '2'), own('a', '1')])).toThrow(
      'webgpu rank 0, 2: expected a card for each rank of a host, got the same NVIDIA H200 on a.',
    );
  });

  test('refuses several ranks of a host whose cards are not known', () => {
    expect(() => assertOwnCards([own('b'), own('a'), own('a')])).toThrow(
      'webgpu rank 1, 2: expected a card for each rank of a host, got cards that cannot be told apart',
    );
  });
});

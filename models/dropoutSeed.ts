/** Returns the given seed of dropout, or else a random one, so that recomputed layers drop the same values. */
export function dropoutSeed(seed = Math.floor(Math.random() * 2 ** 31)): number {
  return seed;
}

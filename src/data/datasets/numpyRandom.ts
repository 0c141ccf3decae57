const MASK_32 = 0xffff_ffffn;
const MASK_64 = 0xffff_ffff_ffff_ffffn;
const MASK_128 = (1n << 128n) - 1n;
const PCG_MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const POOL_SIZE = 4;

/**
 * Reproduces NumPy's `default_rng(seed)`: PCG64 seeded by `SeedSequence`. Splits, mixtures and shuffles thus choose the
 * same rows as the Python libraries for the same seed.
 */
export class NumpyRandom {
  private state: bigint;
  private readonly increment: bigint;
  /** High half of the last 64 bits, when only the low half was used. */
  private spare?: number;

  /** @param seed an integer of 0 or more */
  constructor(seed: number | bigint) {
    const words = seedWords(BigInt(seed), 8);
    const wide = (at: number) => words[at] | (words[at + 1] << 32n);
    this.increment = ((((wide(4) << 64n) | wide(6)) << 1n) | 1n) & MASK_128;
    this.state = 0n;
    this.step();
    this.state = (this.state + ((wide(0) << 64n) | wide(2))) & MASK_128;
    this.step();
  }

  /** Draws a number uniformly from [0, 1). */
  random(): number {
    return Number(this.next64() >> 11n) / 2 ** 53;
  }

  /** Draws an integer uniformly from 0 … `below` − 1, for `below` up to 2³². */
  integer(below: number): number {
    if (below <= 1) return 0;
    // Lemire's method, as in NumPy: the high word of a product is the result, the low word decides whether to draw
    // again.
    const range = BigInt(below);
    let product = BigInt(this.next32()) * range;
    if ((product & MASK_32) < range) {
      const threshold = ((MASK_32 + 1n) % range) & MASK_32;
      while ((product & MASK_32) < threshold) product = BigInt(this.next32()) * range;
    }
    return Number(product >> 32n);
  }

  /** Draws an integer uniformly from 0 … 2⁶³ − 1, as `integers(0, 1 << 63)`. */
  integer63(): bigint {
    // The range is a power of two, so no draw is rejected.
    return (this.next64() << 63n) >> 64n;
  }

  /** Shuffles in place. */
  shuffle<T>(items: T[]): T[] {
    for (let i = items.length - 1; i > 0; i--) {
      // Unlike `integer`, this rejects draws that are too large, because NumPy keeps its shuffles reproducible.
      const shift = Math.clz32(i);
      let j: number;
      do j = (this.next32() << shift) >>> shift;
      while (j > i);
      [items[i], items[j]] = [items[j], items[i]];
    }
    return items;
  }

  /** Returns 0 … `length` − 1 in random order. */
  permutation(length: number): number[] {
    return this.shuffle(Array.from({length}, (_, i) => i));
  }

  /** Draws an index with the given probabilities. */
  choice(probabilities: readonly number[]): number {
    const sums: number[] = [];
    for (const probability of probabilities) sums.push((sums.at(-1) ?? 0) + probability);
    const drawn = this.random();
    const total = sums.at(-1) as number;
    const found = sums.findIndex((sum) => drawn < sum / total);
    return found === -1 ? probabilities.length - 1 : found;
  }

  private step(): void {
    this.state = (this.state * PCG_MULTIPLIER + this.increment) & MASK_128;
  }

  private next64(): bigint {
    this.step();
    const folded = (this.state >> 64n) ^ (this.state & MASK_64);
    const turn = this.state >> 122n;
    return ((folded >> turn) | (folded << (64n - turn))) & MASK_64;
  }

  private next32(): number {
    if (this.spare !== undefined) {
      const half = this.spare;
      this.spare = undefined;
      return half;
    }
    const bits = this.next64();
    this.spare = Number(bits >> 32n);
    return Number(bits & MASK_32);
  }
}

/** Computes `SeedSequence(entropy).generate_state(count)` as 32-bit words. */
function seedWords(entropy: bigint, count: number): bigint[] {
  const given: number[] = [];
  for (let rest = entropy; rest > 0n; rest >>= 32n) given.push(Number(rest & MASK_32));
  if (given.length === 0) given.push(0);
  let constant = 0x43b0d7e5;
  const hash = (value: number) => {
    const mixed = (value ^ constant) >>> 0;
    constant = Math.imul(constant, 0x931e8875) >>> 0;
    const product = Math.imul(mixed, constant) >>> 0;
    return (product ^ (product >>> 16)) >>> 0;
  };
  const mix = (x: number, y: number) => {
    const result = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) >>> 0;
    return (result ^ (result >>> 16)) >>> 0;
  };
  const pool = Array.from({length: POOL_SIZE}, (_, i) => hash(given[i] ?? 0));
  for (let from = 0; from < POOL_SIZE; from++)
    for (let to = 0; to < POOL_SIZE; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  for (let from = POOL_SIZE; from < given.length; from++)
    for (let to = 0; to < POOL_SIZE; to++) pool[to] = mix(pool[to], hash(given[from]));
  constant = 0x8b51f9dd;
  return Array.from({length: count}, (_, i) => {
    const mixed = (pool[i % POOL_SIZE] ^ constant) >>> 0;
    constant = Math.imul(constant, 0x58f38ded) >>> 0;
    const product = Math.imul(mixed, constant) >>> 0;
    return BigInt((product ^ (product >>> 16)) >>> 0);
  });
}

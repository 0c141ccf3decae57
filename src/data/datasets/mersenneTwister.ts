const [LENGTH, SHIFT] = [624, 397];
const [UPPER, LOWER] = [0x8000_0000, 0x7fff_ffff];
const TWIST = 0x9908_b0df;

/**
 * NumPy's global random state after `numpy.random.seed`, as far as `datasets.Dataset.shuffle` without a seed uses it:
 * such a shuffle takes a word of the state as the seed of a generator of its own, and draws one number.
 */
export class MersenneTwister {
  private readonly words = new Uint32Array(LENGTH);
  private position = LENGTH;

  /** @param seed an integer from 0 to 2³² − 1 */
  constructor(seed: number) {
    this.words[0] = seed;
    for (let i = 1; i < LENGTH; i++) {
      const before = this.words[i - 1];
      this.words[i] = Math.imul(1_812_433_253, before ^ (before >>> 30)) + i;
    }
  }

  /** Returns the word at the present position, and advances as one draw of a float does. */
  seedOfShuffle(): number {
    const seed = this.words[this.position < LENGTH ? this.position : 0];
    if (this.position >= LENGTH) this.twist();
    this.position += 2; // words of a float; the position stays even, and so does the length
    return seed;
  }

  private twist(): void {
    const {words} = this;
    for (let i = 0; i < LENGTH; i++) {
      const mixed = (words[i] & UPPER) | (words[(i + 1) % LENGTH] & LOWER);
      words[i] = words[(i + SHIFT) % LENGTH] ^ (mixed >>> 1) ^ (mixed & 1 ? TWIST : 0);
    }
    this.position = 0;
  }
}

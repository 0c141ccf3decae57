/** Buffers may take so much more than was lately in use at once before the oldest of the free ones go. */
const FREE_SHARE = 1 / 8;
/** Free bytes that are never too many. */
const FREE_BYTES = 64 * 2 ** 20;
/** What was in use in so many loans, and as many before, counts as lately: several steps' worth. */
const PERIOD = 2 ** 15;
/** A smaller buffer that is missing is made without making room: it would not pay to submit for it. */
const SMALL = 64 * 2 ** 10;

interface Entry {
  /** In the order of creation. */
  index: number;
  /** How often it was lent. */
  loans: number;
  key: number;
  size: number;
}

/**
 * Lends buffers by exact size and usage, in place of TensorFlow.js's own manager, which differs in three things:
 *
 * - Of the free ones the oldest made is lent. What is free at the start of a step decides then which tensor gets which
 *   buffer, so that every step binds the same ones, and `runShader` finds its bind groups again.
 * - All buffers together are bounded by what was lately in use at once and an eighth of that. Where one is missing beyond, those
 *   that were free for longest are destroyed. A run that repeats itself within the bound stops missing any, and then
 *   nothing is destroyed.
 * - Lending and taking back cost the same however many there are.
 */
export class BufferPool {
  numBytesUsed = 0;
  numBytesAllocated = 0;
  /** Gets every buffer that is lent, while it is set. */
  lent?: Set<GPUBuffer>;
  private readonly entries = new Map<GPUBuffer, Entry>();
  /** By key, those made last first. */
  private readonly free = new Map<number, GPUBuffer[]>();
  /** Those free for longest first. */
  private readonly idle = new Set<GPUBuffer>();
  private nextIndex = 0;
  private loans = 0;
  /** The most bytes in use in this period, and in the one before. */
  private highest = [0, 0];

  /** @param submit submits what is recorded: a buffer that a recorded command uses must not be destroyed before */
  constructor(
    private readonly device: GPUDevice,
    private readonly submit: () => void,
  ) {}

  acquireBuffer(size: number, usage: number, mappedAtCreation = false, reuse = true): GPUBuffer {
    const key = usage * 2 ** 40 + size;
    if (++this.loans % PERIOD === 0) this.highest = [0, this.highest[0]];
    this.highest[0] = Math.max(this.highest[0], this.numBytesUsed + size);
    const known = reuse ? this.free.get(key)?.pop() : undefined;
    if (known) {
      this.idle.delete(known);
      this.lend(known, size);
      return known;
    }
    if (reuse && size >= SMALL) this.makeRoom(size);
    const buffer = this.device.createBuffer({size, usage, mappedAtCreation});
    this.numBytesAllocated += size;
    this.entries.set(buffer, {index: this.nextIndex++, key, size, loans: 0});
    this.lend(buffer, size);
    return buffer;
  }

  /** Lends this buffer, if it is free; whether it was. */
  hold(buffer: GPUBuffer): boolean {
    if (!this.idle.has(buffer)) return false;
    this.takeFree(buffer);
    this.lend(buffer, (this.entries.get(buffer) as Entry).size);
    return true;
  }

  /** Which of its loans a buffer is in; undefined where it is free, or not of this pool. */
  loanOf(buffer: GPUBuffer): number | undefined {
    return this.idle.has(buffer) ? undefined : this.entries.get(buffer)?.loans;
  }

  releaseBuffer(buffer: GPUBuffer, reuse = true): void {
    const entry = this.entries.get(buffer);
    if (!entry) return; // after dispose()
    this.numBytesUsed -= entry.size;
    if (!reuse) {
      this.destroy(buffer, entry);
      return;
    }
    const list = this.free.get(entry.key) ?? [];
    if (list.length === 0) this.free.set(entry.key, list);
    let [low, high] = [0, list.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.indexOf(list[middle]) > entry.index) low = middle + 1;
      else high = middle;
    }
    list.splice(low, 0, buffer);
    this.idle.add(buffer);
  }

  getNumUsedBuffers(): number {
    return this.entries.size - this.idle.size;
  }

  getNumFreeBuffers(): number {
    return this.idle.size;
  }

  dispose(): void {
    for (const buffer of this.entries.keys()) buffer.destroy();
    for (const container of [this.entries, this.free, this.idle]) container.clear();
    this.numBytesUsed = 0;
    this.numBytesAllocated = 0;
  }

  /** Destroys free buffers until one of that size fits the bound, as far as there are any. */
  private makeRoom(size: number): void {
    const bound = Math.max(
      (1 + FREE_SHARE) * Math.max(...this.highest),
      this.numBytesUsed + size + FREE_BYTES,
    );
    if (this.numBytesAllocated + size <= bound) return;
    this.submit();
    for (const buffer of this.idle) {
      if (this.numBytesAllocated + size <= bound) return;
      this.destroy(buffer, this.takeFree(buffer));
    }
  }

  private takeFree(buffer: GPUBuffer): Entry {
    const entry = this.entries.get(buffer) as Entry;
    const list = this.free.get(entry.key) as GPUBuffer[];
    list.splice(list.indexOf(buffer), 1);
    this.idle.delete(buffer);
    return entry;
  }

  private lend(buffer: GPUBuffer, size: number): void {
    (this.entries.get(buffer) as Entry).loans++;
    this.numBytesUsed += size;
    this.lent?.add(buffer);
  }

  private destroy(buffer: GPUBuffer, {size}: Entry): void {
    this.entries.delete(buffer);
    this.numBytesAllocated -= size;
    buffer.destroy();
  }

  private indexOf(buffer: GPUBuffer): number {
    return (this.entries.get(buffer) as Entry).index;
  }
}

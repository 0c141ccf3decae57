import {TfjsLoraError} from '../../../../quant/errors.ts';

/** All buffers may exceed the recent peak use by this share before the oldest free ones are destroyed. */
const FREE_SHARE = 1 / 10;
/** A free buffer may be this many times as large as what is needed at least. */
const FITTING = 4;
/** A new one is, up to this many times, so that it has the size of others, which then take each other's places. */
const NEAR = 9 / 8;
/** The pool always keeps this many free bytes. */
const FREE_BYTES = 64 * 2 ** 20;
/**
 * Number of loans in a period; the peaks of the current period and the one before are the recent peak: several steps'
 * worth.
 */
const PERIOD = 2 ** 15;
/** A smaller missing buffer is made without making room, because submitting for it would cost more. */
const SMALL = 64 * 2 ** 10;

/** `GPUBufferUsage.STORAGE`, which a test's device lacks. */
const STORAGE = 0x80;
/** A buffer's key is its size plus this many times its usage. */
const KEY_UNIT = 2 ** 40;

interface Entry {
  /** Position in the order of creation. */
  index: number;
  /** How often it was lent. */
  loans: number;
  key: number;
  size: number;
}

/**
 * Lends buffers by exact size and usage. It replaces TensorFlow.js's own manager and differs in three ways:
 *
 * - It lends the free buffer that was made first. So what is free at the start of a step determines which tensor gets
 *   which buffer, every step binds the same ones, and `runShader` finds its bind groups again.
 * - It bounds all buffers together by the recent peak use plus a tenth. If a missing buffer exceeds the bound, or the
 *   peak has fallen, those that were free for longest are destroyed. A run that repeats itself within the bound soon
 *   misses no buffer, and then nothing is destroyed.
 * - Lending by exact size and taking back cost the same for any number of buffers.
 */
export class BufferPool {
  numBytesUsed = 0;
  numBytesAllocated = 0;
  /** If set, collects every buffer that is lent; until then nothing is destroyed to make room. */
  lent?: Set<GPUBuffer>;
  private readonly entries = new Map<GPUBuffer, Entry>();
  /** Free buffers by key, those made last first. */
  private readonly free = new Map<number, GPUBuffer[]>();
  /** Free buffers, those free for longest first. */
  private readonly idle = new Set<GPUBuffer>();
  private nextIndex = 0;
  private loans = 0;
  /** The most bytes in use in the current period and in the one before. */
  private highest = [0, 0];

  /** @param submit submits recorded commands: a buffer that one uses must not be destroyed earlier */
  constructor(
    private readonly device: GPUDevice,
    private readonly submit: () => void,
  ) {}

  /** @throws TfjsLoraError `UNSUPPORTED` for a tensor larger than the device's bindings */
  acquireBuffer(size: number, usage: number, mappedAtCreation = false, reuse = true): GPUBuffer {
    const key = usage * KEY_UNIT + size;
    this.countLoan();
    this.highest[0] = Math.max(this.highest[0], this.numBytesUsed + size);
    const known = reuse ? this.free.get(key)?.pop() : undefined;
    if (known) {
      this.idle.delete(known);
      this.lend(known, size);
      return known;
    }
    this.assertBindable(size, usage);
    if (reuse && size >= SMALL) this.makeRoom(size);
    const buffer = this.device.createBuffer({size, usage, mappedAtCreation});
    this.numBytesAllocated += size;
    this.entries.set(buffer, {index: this.nextIndex++, key, size, loans: 0});
    this.lend(buffer, size);
    return buffer;
  }

  /**
   * Lends a buffer of at least this size: a free one of it, otherwise the smallest free one that is at most four times
   * as large, or a new one. So results between kernels share buffers although their sizes differ.
   */
  acquireAtLeast(size: number, usage: number): GPUBuffer {
    const first = usage * KEY_UNIT;
    if (size >= SMALL && !this.free.get(first + size)?.length) {
      let best = Number.POSITIVE_INFINITY;
      for (const [key, {length}] of this.free)
        if (length > 0 && key > first + size && key <= first + FITTING * size) best = Math.min(best, key);
      if (best === Number.POSITIVE_INFINITY)
        for (const {key} of this.entries.values())
          if (key >= first + size && key <= first + NEAR * size) best = Math.min(best, key);
      if (best < Number.POSITIVE_INFINITY) return this.acquireBuffer(best - first, usage);
    }
    return this.acquireBuffer(size, usage);
  }

  /** Lends this buffer if it is free. @returns whether it was */
  hold(buffer: GPUBuffer): boolean {
    if (!this.idle.has(buffer)) return false;
    this.takeFree(buffer);
    this.lend(buffer, (this.entries.get(buffer) as Entry).size);
    return true;
  }

  /** Whether the buffer is of this pool and not destroyed. */
  has(buffer: GPUBuffer): boolean {
    return this.entries.has(buffer);
  }

  /** Returns the number of the buffer's current loan; undefined if it is free or not of this pool. */
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

  /** Destroys all free buffers if they take more than the pool always keeps, and than a tenth of what is in use. */
  trim(): void {
    const most = Math.max(FREE_BYTES, FREE_SHARE * this.numBytesUsed);
    if (this.numBytesAllocated - this.numBytesUsed <= most) return;
    this.submit();
    for (const buffer of this.idle) this.destroy(buffer, this.takeFree(buffer));
  }

  dispose(): void {
    for (const buffer of this.entries.keys()) buffer.destroy();
    for (const container of [this.entries, this.free, this.idle]) container.clear();
    this.numBytesUsed = 0;
    this.numBytesAllocated = 0;
  }

  /** @throws TfjsLoraError `UNSUPPORTED` for a tensor that no shader could read */
  private assertBindable(size: number, usage: number): void {
    const limit = this.device.limits.maxStorageBufferBindingSize;
    if (size <= limit || (usage & STORAGE) === 0) return;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `webgpu tensor: expected at most ${limit} bytes, which is what the device's shaders can read, got ${size}. ` +
        'Use shorter or fewer rows a batch, a smaller model, or another backend.',
    );
  }

  private countLoan(): void {
    if (++this.loans % PERIOD !== 0) return;
    this.highest = [this.numBytesUsed, this.highest[0]];
    this.makeRoom(0);
  }

  /** Destroys free buffers until one more of this size fits the bound, or none is left. */
  private makeRoom(size: number): void {
    const bound = Math.max(
      (1 + FREE_SHARE) * Math.max(...this.highest),
      this.numBytesUsed + size + FREE_BYTES,
    );
    if (this.numBytesAllocated + size <= bound || this.lent) return;
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

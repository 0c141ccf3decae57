import {BufferPool} from '../../../../layers/kernels/webgpu/device/bufferPool.ts';

const MiB = 2 ** 20;

/** A device whose buffers know whether they were destroyed, and the pool on it. */
function makePool() {
  const destroyed: GPUBuffer[] = [];
  let submissions = 0;
  const device = {
    limits: {maxStorageBufferBindingSize: 128 * MiB},
    createBuffer: () => {
      const buffer = {destroy: () => destroyed.push(buffer)} as unknown as GPUBuffer;
      return buffer;
    },
  } as unknown as GPUDevice;
  const pool = new BufferPool(device, () => submissions++);
  return {pool, destroyed, submissions: () => submissions};
}

describe('BufferPool', () => {
  test('lends the oldest free buffer of a size and usage, whatever the order of return', () => {
    const {pool} = makePool();
    const [a, b, c] = [1, 2, 3].map(() => pool.acquireBuffer(64, 1));
    const other = pool.acquireBuffer(64, 2);
    for (const buffer of [b, other, c, a]) pool.releaseBuffer(buffer);
    expect([1, 2, 3].map(() => pool.acquireBuffer(64, 1))).toEqual([a, b, c]);
    expect(pool.acquireBuffer(32, 1)).not.toBe(other);
    expect(pool.acquireBuffer(64, 2)).toBe(other);
  });

  test('trims what is free only if it is much', () => {
    const {pool, destroyed, submissions} = makePool();
    const [a, b] = [60, 30].map((size) => pool.acquireBuffer(size * MiB, 1));
    pool.releaseBuffer(a);
    pool.trim();
    expect(destroyed).toEqual([]);
    pool.releaseBuffer(b);
    pool.trim();
    expect(destroyed).toEqual([a, b]);
    expect(submissions()).toBe(1);
    expect(pool.numBytesAllocated).toBe(0);
  });

  test('counts what is used and what is allocated', () => {
    const {pool, destroyed} = makePool();
    const [a, b] = [pool.acquireBuffer(100, 1), pool.acquireBuffer(28, 1, true, false)];
    expect([pool.numBytesUsed, pool.numBytesAllocated]).toEqual([128, 128]);
    pool.releaseBuffer(a);
    pool.releaseBuffer(b, false);
    expect([pool.numBytesUsed, pool.numBytesAllocated]).toEqual([0, 100]);
    expect([pool.getNumUsedBuffers(), pool.getNumFreeBuffers()]).toEqual([0, 1]);
    expect(destroyed).toEqual([b]);
    pool.dispose();
    expect(pool.numBytesAllocated).toBe(0);
    expect(destroyed).toEqual([b, a]);
    pool.releaseBuffer(a); // a tensor that outlives the backend
    expect(pool.numBytesUsed).toBe(0);
  });

  test('destroys those that were free for longest if one is missing and too many are free', () => {
    const {pool, destroyed, submissions} = makePool();
    const live = pool.acquireBuffer(250 * MiB, 1);
    const sizes = [40, 50, 60].map((size) => pool.acquireBuffer(size * MiB, 1)); // 400 in use
    for (const buffer of [sizes[1], sizes[0], sizes[2]]) pool.releaseBuffer(buffer);
    pool.acquireBuffer(35 * MiB, 1); // to 435 of the 440 allowed
    pool.acquireBuffer(16, 1);
    expect([destroyed, submissions()]).toEqual([[], 0]);
    pool.acquireBuffer(8 * MiB, 1); // would be 443
    expect([destroyed, submissions()]).toEqual([[sizes[1]], 1]);
    expect(pool.acquireBuffer(60 * MiB, 1)).toBe(sizes[2]);
    pool.releaseBuffer(live);
  });

  test('lends the smallest free buffer that is not much larger, or one of a size that others have', () => {
    const {pool} = makePool();
    const live = pool.acquireBuffer(1000 * MiB, 1);
    const [large, fitting, other] = [150, 120, 120].map((size, i) =>
      pool.acquireBuffer(size * MiB, i === 2 ? 2 : 1),
    );
    for (const buffer of [large, fitting, other]) pool.releaseBuffer(buffer);
    expect(pool.acquireAtLeast(100 * MiB, 1)).toBe(fitting);
    expect(pool.numBytesUsed).toBe(1120 * MiB);
    expect(pool.acquireAtLeast(37 * MiB, 1)).not.toBe(large);
    expect(pool.acquireAtLeast(150 * MiB, 1)).toBe(large);
    const before = pool.numBytesUsed;
    pool.acquireAtLeast(110 * MiB, 1);
    expect(pool.numBytesUsed - before).toBe(120 * MiB);
    pool.acquireAtLeast(100 * MiB, 1);
    expect(pool.numBytesUsed - before).toBe(220 * MiB);
    pool.releaseBuffer(live);
  });

  test('refuses a tensor that is larger than what a shader can bind', () => {
    const {pool} = makePool();
    const storage = 0x80;
    expect(() => pool.acquireBuffer(128 * MiB + 4, storage)).toThrow(
      'webgpu tensor: expected at most 134217728 bytes',
    );
    expect(pool.acquireBuffer(128 * MiB, storage)).toBeDefined();
    expect(pool.acquireBuffer(256 * MiB, 1)).toBeDefined();
  });

  test('forgets what was in use long ago, and always keeps 64 MiB', () => {
    const {pool, destroyed} = makePool();
    const first = pool.acquireBuffer(200 * MiB, 1);
    pool.releaseBuffer(first);
    pool.acquireBuffer(MiB, 1);
    expect(destroyed).toEqual([]); // 201 of 220
    const again = () => pool.releaseBuffer(pool.acquireBuffer(16, 1));
    for (let i = 0; i < 2 ** 16; i++) again();
    expect(destroyed).toEqual([first]); // although nothing was missing
    const [a, b] = [pool.acquireBuffer(40 * MiB, 1), pool.acquireBuffer(24 * MiB - 16, 1)];
    expect(destroyed).toEqual([first]);
    for (const buffer of [a, b]) pool.releaseBuffer(buffer);
    for (let i = 0; i < 2 ** 16; i++) again();
    pool.acquireBuffer(2 * MiB, 1); // with the 16 bytes, 64 MiB are free
    expect(destroyed).toEqual([first]);
  });

  test('destroys nothing while a recording collects what is lent, because its commands use it', () => {
    const {pool, destroyed} = makePool();
    pool.lent = new Set();
    const first = pool.acquireBuffer(200 * MiB, 1);
    pool.releaseBuffer(first);
    pool.acquireBuffer(100 * MiB, 1);
    expect(destroyed).toEqual([]);
    pool.lent = undefined;
    pool.acquireBuffer(90 * MiB, 1);
    expect(destroyed).toEqual([first]);
  });
});

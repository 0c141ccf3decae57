/** Reads the first `count` timestamps of a set, in nanoseconds, after the submitted commands have written them. */
export async function readTimestamps(
  device: GPUDevice,
  set: GPUQuerySet,
  count: number,
): Promise<BigUint64Array> {
  const size = 8 * count;
  const resolved = device.createBuffer({size, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC});
  const mapped = device.createBuffer({size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST});
  try {
    const encoder = device.createCommandEncoder();
    encoder.resolveQuerySet(set, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, mapped, 0, size);
    device.queue.submit([encoder.finish()]);
    await mapped.mapAsync(GPUMapMode.READ);
    return new BigUint64Array(mapped.getMappedRange().slice(0));
  } finally {
    for (const buffer of [resolved, mapped]) buffer.destroy();
  }
}

/**
 * WGSL of `sumOverWorkgroup(value, local)`, which returns the sum of every thread's `value` to all threads. All threads
 * must call it together; it may be called again.
 *
 * @param size number of threads in the workgroup, a power of two
 * @param shared number of sums, a power of two: thread `i` adds to, and gets, number `i % shared`. Default 1
 */
export const sumOverWorkgroup = (size: number, shared = 1): string => `
var<workgroup> partial: array<f32, ${size}>;
fn sumOverWorkgroup(value: f32, local: u32) -> f32 {
  partial[local] = value;
  workgroupBarrier();
  for (var width = ${size / 2}u; width >= ${shared}u; width /= 2u) {
    if (local < width) { partial[local] += partial[local + width]; }
    workgroupBarrier();
  }
  let sum = partial[local % ${shared}u];
  workgroupBarrier();
  return sum;
}`;

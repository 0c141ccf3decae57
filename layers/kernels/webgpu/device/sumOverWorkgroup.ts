/**
 * WGSL of `sumOverWorkgroup(value, local)`, which returns the sum of every thread's `value` to all threads. All threads
 * must call it together; it may be called again.
 *
 * @param size number of threads in the workgroup, a power of two
 */
export const sumOverWorkgroup = (size: number): string => `
var<workgroup> partial: array<f32, ${size}>;
fn sumOverWorkgroup(value: f32, local: u32) -> f32 {
  partial[local] = value;
  workgroupBarrier();
  for (var width = ${size / 2}u; width > 0u; width /= 2u) {
    if (local < width) { partial[local] += partial[local + width]; }
    workgroupBarrier();
  }
  let sum = partial[0];
  workgroupBarrier();
  return sum;
}`;

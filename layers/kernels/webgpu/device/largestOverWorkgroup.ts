/** WGSL of `largestOverWorkgroup(value, local)`: as `sumOverWorkgroup`, but the largest of the values. */
export const largestOverWorkgroup = (size: number, shared = 1): string => `
var<workgroup> candidates: array<f32, ${size}>;
fn largestOverWorkgroup(value: f32, local: u32) -> f32 {
  candidates[local] = value;
  workgroupBarrier();
  for (var width = ${size / 2}u; width >= ${shared}u; width /= 2u) {
    if (local < width) { candidates[local] = max(candidates[local], candidates[local + width]); }
    workgroupBarrier();
  }
  let largest = candidates[local % ${shared}u];
  workgroupBarrier();
  return largest;
}
fn largestOf4(v: vec4f) -> f32 { let m = abs(v); return max(max(m.x, m.y), max(m.z, m.w)); }`;

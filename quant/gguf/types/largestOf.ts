/** Returns the value of a block that is largest in magnitude, the first of several. */
export function largestOf(values: Float32Array, from: number, count: number): number {
  let largest = 0;
  for (let i = from; i < from + count; i++) if (Math.abs(values[i]) > Math.abs(largest)) largest = values[i];
  return largest;
}

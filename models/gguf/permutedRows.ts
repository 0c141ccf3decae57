/**
 * Moves rows of a query or key matrix (or the elements of its bias) between the order of Hugging Face's files, in which
 * element i of a head rotates with element i + headDim / 2, and that of llama.cpp's `llama`, in which neighbours rotate
 * together. Row 2 i + half of a head there is row half · headDim / 2 + i here.
 *
 * @param source `[heads · headDim, columns]`, any typed array
 * @param heads number of query or key heads
 * @param to `'halves'` for Hugging Face's order, `'neighbours'` for llama.cpp's
 * @returns a new array of the same type
 */
export function permutedRows<Values extends Uint8Array | Uint16Array | Float32Array>(
  source: Values,
  heads: number,
  headDim: number,
  to: 'halves' | 'neighbours',
): Values {
  const width = source.length / (heads * headDim);
  const out = source.slice() as Values;
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < headDim; i++) {
      const neighbour = head * headDim + i;
      const half = head * headDim + (i & 1) * (headDim / 2) + (i >> 1);
      const [from, at] = to === 'halves' ? [neighbour, half] : [half, neighbour];
      out.set(source.subarray(from * width, (from + 1) * width), at * width);
    }
  }
  return out;
}

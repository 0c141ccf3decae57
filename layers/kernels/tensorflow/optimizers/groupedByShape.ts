/** Larger tensors are worth an op of their own. */
const SMALL_SIZE = 1 << 17;

/**
 * Groups indices of small tensors by shape, each large one alone: computing a small one costs no more than starting its
 * op.
 */
export function groupedByShape(tensors: {shape: number[]}[]): number[][] {
  const groups = new Map<string, number[]>();
  for (const [place, {shape}] of tensors.entries()) {
    const isSmall = shape.reduce((size, length) => size * length, 1) <= SMALL_SIZE;
    const key = isSmall ? shape.join() : `large ${place}`;
    const group = groups.get(key);
    if (group) group.push(place);
    else groups.set(key, [place]);
  }
  return [...groups.values()];
}

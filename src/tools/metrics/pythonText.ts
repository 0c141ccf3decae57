/** Python's notion of white space, for `split()` and `rstrip()`: JavaScript's \s has U+FEFF besides, and lacks U+001C–1F and U+0085. */
export const PYTHON_SPACES = /(?:(?!\uFEFF)[\s\x1c-\x1f\x85])+/u;
export const TRAILING_PYTHON_SPACES = new RegExp(`${PYTHON_SPACES.source}$`, 'u');

/** Python's `round(value, 4)`: half to even where a double lies exactly between two neighbours, which only odd 32nds do. */
export function roundTo4(value: number): number {
  const thirtySeconds = value * 32;
  if (!Number.isInteger(thirtySeconds) || thirtySeconds % 2 === 0) return Number(value.toFixed(4));
  const below = Math.floor(value * 1e4);
  return (below % 2 === 0 ? below : below + 1) / 1e4;
}

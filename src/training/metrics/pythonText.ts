/**
 * White space as in Python's `split()` and `rstrip()`. JavaScript's \s also has U+FEFF, and lacks U+001C–1F and U+0085.
 */
export const PYTHON_SPACES = /(?:(?!\uFEFF)[\s\x1c-\x1f\x85])+/u;
export const TRAILING_PYTHON_SPACES = new RegExp(`${PYTHON_SPACES.source}$`, 'u');

/**
 * Rounds as Python's `round(value, 4)` does: half to even. A double is exactly half-way between two results only if it
 * is an odd multiple of 1/32.
 */
export function roundTo4(value: number): number {
  const thirtySeconds = value * 32;
  if (!Number.isInteger(thirtySeconds) || thirtySeconds % 2 === 0) return Number(value.toFixed(4));
  const below = Math.floor(value * 1e4);
  return (below % 2 === 0 ? below : below + 1) / 1e4;
}

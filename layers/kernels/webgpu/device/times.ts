/** Joins `body(0)`, `body(1)` … `body(count - 1)`. */
export const times = (count: number, body: (i: number) => string): string =>
  Array.from({length: count}, (_, i) => body(i)).join('\n');

/** `body(0)`, `body(1)` … one after the other. */
export const times = (count: number, body: (i: number) => string): string =>
  Array.from({length: count}, (_, i) => body(i)).join('\n');

/**
 * Writes a count with its noun: `1 step`, `2 steps`.
 *
 * @param format writes the number, by default as `String` does
 */
export function counted(count: number, noun: string, format: (count: number) => string = String): string {
  return `${format(count)} ${noun}${count === 1 ? '' : 's'}`;
}

/** Gives entries of a map other keys, in their places. */
export function renameKeys<V>(map: Map<string, V>, names: ReadonlyMap<string, string>): void {
  const entries = [...map];
  map.clear();
  for (const [key, value] of entries) map.set(names.get(key) ?? key, value);
}

/** Hashes a name to a small whole number (FNV-1a, 24 bits), so that layers with one seed draw different values. */
export function hashName(name: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return (hash >>> 0) & 0xffffff;
}

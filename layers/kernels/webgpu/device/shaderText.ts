/** Texts kept at once; past this many they are made anew. One is a few kilobytes. */
const MAX_TEXTS = 2048;

const texts = new Map<string, string>();

/**
 * A shader's text, built once for each `key`: building it, and finding its pipeline by a text that was just joined, costs the
 * host more than the dispatch itself.
 *
 * @param key names the shader and everything that its text depends on; none: the text is not kept
 */
export function shaderText(key: string | undefined, build: () => string): string {
  if (key === undefined) return build();
  const known = texts.get(key);
  if (known !== undefined) return known;
  if (texts.size >= MAX_TEXTS) texts.clear();
  const text = build();
  texts.set(key, text);
  return text;
}

type Method = (text: string, ...args: unknown[]) => string | number | string[];

/**
 * Methods of Python's `str` that `@huggingface/jinja` lacks or whose arguments it ignores: `'xhx'.strip('x')` is `'h'`.
 * Arguments are plain values, null for None.
 */
export const STRING_METHODS: Record<string, Method> = {
  strip: (text, characters) => stripped(text, characters, true, true),
  lstrip: (text, characters) => stripped(text, characters, true, false),
  rstrip: (text, characters) => stripped(text, characters, false, true),
  capitalize: (text) => {
    const [first = '', ...rest] = text;
    return first.toUpperCase() + rest.join('').toLowerCase();
  },
  find: (text, part) => {
    const at = text.indexOf(textOf('find', part));
    return at < 0 ? -1 : Array.from(text.slice(0, at)).length;
  },
  count: (text, part) => {
    const sought = textOf('count', part);
    return sought === '' ? Array.from(text).length + 1 : text.split(sought).length - 1;
  },
  rsplit: (text, separator, most) => {
    const given = separator ?? undefined;
    const parts = given === undefined ? text.split(/\s+/).filter(Boolean) : text.split(filled(given));
    const count = most ?? -1;
    if (!Number.isInteger(count)) throw new Error('expected a whole number of splits for rsplit');
    if ((count as number) < 0 || parts.length <= (count as number) + 1) return parts;
    if (given === undefined) throw new Error('expected a separator for rsplit with a number of splits');
    const whole = parts.length - (count as number);
    return [parts.slice(0, whole).join(given as string), ...parts.slice(whole)];
  },
};

function stripped(text: string, characters: unknown, isStart: boolean, isEnd: boolean): string {
  if (characters === undefined || characters === null) {
    const started = isStart ? text.trimStart() : text;
    return isEnd ? started.trimEnd() : started;
  }
  const set = new Set(textOf('strip', characters));
  const letters = Array.from(text);
  let [start, end] = [0, letters.length];
  while (isStart && start < end && set.has(letters[start])) start++;
  while (isEnd && end > start && set.has(letters[end - 1])) end--;
  return letters.slice(start, end).join('');
}

function filled(separator: unknown): string {
  const text = textOf('rsplit', separator);
  if (text === '') throw new Error('expected a separator for rsplit, got an empty text');
  return text;
}

function textOf(method: string, value: unknown): string {
  if (typeof value === 'string') return value;
  throw new Error(`expected a text for ${method}, got ${value === null ? 'None' : typeof value}`);
}

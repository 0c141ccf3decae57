/** A number that is a float in Python, which writes `2.0` and not `2`. */
export class PythonFloat {
  constructor(readonly value: number) {}

  valueOf(): number {
    return this.value;
  }

  /** Writes the number as Python's `repr` does: with the fewest digits that give it back. */
  toString(): string {
    const {value} = this;
    if (Number.isNaN(value)) return 'nan';
    if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
    if (value === 0) return Object.is(value, -0) ? '-0.0' : '0.0';
    const [mantissa, power] = value.toExponential().split('e');
    const exponent = Number(power);
    if (exponent < -4 || exponent >= 16)
      return `${mantissa}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`;
    const digits = mantissa.replace(/[-.]/g, '');
    const sign = value < 0 ? '-' : '';
    if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`;
    const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, '0');
    return `${sign}${whole}.${digits.slice(exponent + 1) || '0'}`;
  }

  toJSON(): number {
    return this.value;
  }
}

/** Property for the order in which keys were written; JavaScript would put `"10"` before `"a"`. */
const KEY_ORDER = Symbol('key order');

/** Makes an object that keeps the order of its entries and takes any key. The last of equal keys wins, as in Python. */
export function objectOf(entries: readonly (readonly [string, unknown])[]): Record<string, unknown> {
  const object: Record<string, unknown> = {};
  for (const [key, value] of entries) {
    if (key === '__proto__')
      Object.defineProperty(object, key, {value, writable: true, enumerable: true, configurable: true});
    else object[key] = value;
  }
  if (entries.some(([key]) => /^\d+$/.test(key)))
    Object.defineProperty(object, KEY_ORDER, {value: [...new Set(entries.map(([key]) => key))]});
  return object;
}

/** Returns an object's entries in Python's order: as they were written. */
export function entriesOf(object: object): [string, unknown][] {
  const order = (object as {[KEY_ORDER]?: string[]})[KEY_ORDER];
  if (!order) return Object.entries(object);
  return order.map((key) => [key, (object as Record<string, unknown>)[key]]);
}

/** Writes a value as Python's `str` does. A whole JavaScript number is an integer, a map a dict. */
export function pythonText(value: unknown): string {
  return typeof value === 'string' ? value : pythonRepr(value);
}

function pythonRepr(value: unknown): string {
  if (value === undefined || value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'string') return stringRepr(value);
  if (typeof value === 'number')
    return Number.isInteger(value) ? wholeText(value) : `${new PythonFloat(value)}`;
  if (Array.isArray(value)) return `[${value.map(pythonRepr).join(', ')}]`;
  if (typeof value !== 'object' || value instanceof PythonFloat) return String(value);
  const entries = value instanceof Map ? [...value] : entriesOf(value);
  return `{${entries.map(([key, item]) => `${pythonRepr(key)}: ${pythonRepr(item)}`).join(', ')}}`;
}

/** Writes all digits of a whole number. */
export function wholeText(value: number): string {
  return BigInt(value).toString();
}

const ESCAPES: Record<string, string> = {'\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t'};

function stringRepr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text.replace(/(?! )[\\'\p{C}\p{Z}]/gu, (char) => {
    if (char === "'") return quote === "'" ? "\\'" : char;
    if (ESCAPES[char]) return ESCAPES[char];
    const code = char.codePointAt(0) as number;
    const [letter, width] = code < 0x100 ? ['x', 2] : code < 0x10000 ? ['u', 4] : ['U', 8];
    return `\\${letter}${code.toString(16).padStart(width, '0')}`;
  });
  return quote + escaped + quote;
}

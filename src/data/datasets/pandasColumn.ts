import {EMPTY_CELLS} from './delimitedRecords.ts';

const INTEGER = /^\s*[+-]?\d+\s*$/;
const FLOAT = /^\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*$/;
const TRUTHS = new Map([
  ...['True', 'TRUE', 'true'].map((word) => [word, 'True'] as const),
  ...['False', 'FALSE', 'false'].map((word) => [word, 'False'] as const),
]);
const [LOWEST, HIGHEST] = [-(2n ** 63n), 2n ** 64n];

/**
 * Returns the cells of a column of a csv file as Python's `str` writes them after `pandas.read_csv`, which converts a
 * whole column to numbers or booleans if all its cells are some, and reads words like `None` as NaN.
 */
export function pandasColumn(cells: readonly string[]): string[] {
  const filled = cells.filter((cell) => !EMPTY_CELLS.has(cell));
  const hasEmpty = filled.length < cells.length;
  const write = writerOf(filled, hasEmpty);
  return cells.map((cell) => (EMPTY_CELLS.has(cell) ? 'nan' : write(cell)));
}

function writerOf(filled: readonly string[], hasEmpty: boolean): (cell: string) => string {
  if (filled.every((cell) => INTEGER.test(cell)) && !hasEmpty) {
    const isHeld = filled.map((cell) => BigInt(cell.trim())).every((n) => n >= LOWEST && n < HIGHEST);
    return isHeld ? (cell) => String(BigInt(cell.trim())) : (cell) => cell;
  }
  if (filled.every((cell) => FLOAT.test(cell))) return (cell) => pythonFloat(Number(cell));
  if (filled.every((cell) => TRUTHS.has(cell))) return (cell) => TRUTHS.get(cell) as string;
  return (cell) => cell;
}

/** Writes a float as Python does: `0.5`, `3.0`, `1e-05`, `1e+20`. */
function pythonFloat(value: number): string {
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  const [digits, exponent] = value.toExponential().split('e');
  const power = Number(exponent);
  if (value !== 0 && (power < -4 || power >= 16)) {
    const sign = power < 0 ? '-' : '+';
    return `${digits}e${sign}${String(Math.abs(power)).padStart(2, '0')}`;
  }
  const text = Object.is(value, -0) ? '-0' : expanded(value);
  return text.includes('.') ? text : `${text}.0`;
}

/** Writes a number of at least 1e-4 and below 1e16, or 0, without an exponent. */
const expanded = (value: number): string => String(value); // JavaScript does so from 1e-6 to 1e21

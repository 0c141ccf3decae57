import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {escapeHtml} from './escapeHtml.ts';
import {display} from './notebookDisplay.ts';
import {RichOutput} from './richOutput.ts';

/** One row: values by the name of their column. */
export type TableRow = Readonly<Record<string, string | number | boolean | null | undefined>>;

export interface TableOptions {
  /** Text above the table. Default: none. */
  caption?: string;
}
/** Digits of the largest number in a column. */
const DIGITS = 4;

const TABLE_OPTIONS = {caption: true} satisfies OptionNames<TableOptions>;

/**
 * Shows rows as a table in a notebook. The numbers of a column are rounded to the same place, where the largest has at
 * least 4 digits. A missing value is a dash.
 *
 * @param rows one object for each row; their keys are the columns, in the order in which they first occur
 * @returns the table, unless a tslab notebook has displayed it
 * @throws TfjsLoraError `INVALID_ARGUMENT` when there is no row
 */
export function showTable(rows: readonly TableRow[], options: TableOptions = {}): RichOutput | undefined {
  assertKnownOptions('showTable', options, TABLE_OPTIONS);
  if (!Array.isArray(rows) || rows.length === 0) {
    const got = Array.isArray(rows) ? 'none' : `${show(rows)}. Put a single row into a list.`;
    throw new TfjsLoraError('INVALID_ARGUMENT', `showTable rows: expected at least one row, got ${got}`);
  }
  return display(table(rows, options.caption));
}

/** Makes the table that {@link showTable} shows. */
export function table(rows: readonly TableRow[], caption?: string): RichOutput {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const isNumeric = columns.map((column) => rows.every((row) => typeof (row[column] ?? 0) === 'number'));
  const formats = columns.map((column) => formatOf(rows.map((row) => row[column])));
  const lines = [columns, ...rows.map((row) => columns.map((column, i) => formats[i](row[column])))];
  return RichOutput.html(html(lines, isNumeric, caption), plainText(lines, isNumeric, caption));
}

/** Returns what writes the values of a column. */
function formatOf(column: TableRow[string][]): (value: TableRow[string]) => string {
  const numbers = column.filter((value) => Number.isFinite(value)) as number[];
  const largest = Math.max(...numbers.map(Math.abs));
  const wanted = Math.min(10, Math.max(0, DIGITS - 1 - Math.floor(Math.log10(largest || 1))));
  const decimals = numbers.every(Number.isInteger) ? 0 : wanted;
  const rounded = {minimumFractionDigits: decimals, maximumFractionDigits: decimals};
  return (value) => {
    if (value === null || value === undefined) return '–';
    if (typeof value !== 'number') return String(value);
    const isLost = value !== 0 && Math.abs(value) < 0.5 * 10 ** -decimals;
    return isLost ? value.toExponential(1) : value.toLocaleString('en-US', rounded);
  };
}

function html(lines: string[][], isNumeric: boolean[], caption?: string): string {
  const row = (tag: 'th' | 'td') => (cells: string[]) =>
    `<tr>${cells.map((cell, i) => `<${tag} style="text-align: ${isNumeric[i] ? 'right' : 'left'}">${escapeHtml(cell)}</${tag}>`).join('')}</tr>`;
  const [head, ...body] = lines;
  const above =
    caption === undefined ? '' : `<caption style="text-align: left">${escapeHtml(caption)}</caption>`;
  return `<table>${above}<thead>${row('th')(head)}</thead><tbody>${body.map(row('td')).join('')}</tbody></table>`;
}

function plainText(lines: string[][], isNumeric: boolean[], caption?: string): string {
  const widths = isNumeric.map((_, i) => Math.max(...lines.map((cells) => cells[i].length)));
  const padded = (cell: string, i: number) =>
    isNumeric[i] ? cell.padStart(widths[i]) : cell.padEnd(widths[i]);
  const texts = lines.map((cells) => cells.map(padded).join('  ').trimEnd());
  return [...(caption === undefined ? [] : [caption]), ...texts].join('\n');
}

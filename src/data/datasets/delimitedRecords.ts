import {counted} from '../../../quant/counted.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertRecordSize, placeOf, type SourceRecord} from './sourceRecord.ts';

/** Cells read as empty: pandas' default, which Hugging Face's `csv` loader uses. */
export const EMPTY_CELLS: ReadonlySet<string> = new Set([
  '',
  '#N/A',
  '#N/A N/A',
  '#NA',
  '-1.#IND',
  '-1.#QNAN',
  '-NaN',
  '-nan',
  '1.#IND',
  '1.#QNAN',
  '<NA>',
  'N/A',
  'NA',
  'NULL',
  'NaN',
  'None',
  'n/a',
  'nan',
  'null',
]);

/**
 * Reads rows below a header line as pandas does: empty cells are null, and so are the cells that a short row lacks.
 * Cells stay text, even where pandas would convert a whole column to numbers.
 *
 * @throws TfjsLoraError `CORRUPT_FILE` for a row that is longer than the header, or a quote that is not closed
 */
export async function* delimitedRecords(
  text: AsyncIterable<string>,
  file: string,
  delimiter: string,
): AsyncGenerator<SourceRecord> {
  let header: string[] | undefined;
  let index = 0;
  for await (const {cells, line} of new RowReader(file, delimiter).rows(text)) {
    if (header === undefined) {
      header = columnNames(cells);
      continue;
    }
    const place = {file, index: index++, line};
    if (cells.length > header.length) {
      throw new TfjsLoraError(
        'CORRUPT_FILE',
        `${placeOf(place)}: expected ${counted(header.length, 'column')} as in the header, got ${cells.length}. ` +
          'Put cells that hold the delimiter into double quotes.',
      );
    }
    const entries = header.map((name, i) => [name, EMPTY_CELLS.has(cells[i] ?? '') ? null : cells[i]]);
    yield {value: Object.fromEntries(entries), ...place};
  }
}

/** Splits text into rows of cells as pandas does, the header like any other row. */
export function delimitedRows(
  text: AsyncIterable<string>,
  file: string,
  delimiter: string,
): AsyncGenerator<Row> {
  return new RowReader(file, delimiter).rows(text);
}

/** Names columns as pandas does when a name is missing or taken. */
function columnNames(cells: string[]): string[] {
  const taken = new Set(cells);
  const seen = new Set<string>();
  return cells.map((cell, i) => {
    let name = cell || `Unnamed: ${i}`;
    for (let n = 1; seen.has(name); n++) if (!taken.has(`${cell}.${n}`)) name = `${cell}.${n}`;
    seen.add(name);
    return name;
  });
}

export interface Row {
  cells: string[];
  /** Line where the row begins, from 1. */
  line: number;
}

/** States of pandas' tokenizer. A quote opens a cell only as its first character. */
type State = 'row' | 'cell' | 'bare' | 'quoted' | 'quote';

/** Splits text into rows by the rules of pandas' tokenizer, which skips empty lines. */
class RowReader {
  private state: State = 'row';
  private cells: string[] = [];
  private cell = '';
  private index = -1; // index of the record; the header has none
  private line = 1;
  private rowLine = 1;
  private afterReturn = false;
  private size = 0;
  private readonly bareRun: RegExp;

  constructor(
    private readonly file: string,
    private readonly delimiter: string,
  ) {
    this.bareRun = new RegExp(`[^\\r\\n${delimiter}]*`, 'y');
  }

  async *rows(text: AsyncIterable<string>): AsyncGenerator<Row> {
    for await (const piece of text) {
      yield* this.take(piece);
      assertRecordSize(this.size, {file: this.file, index: Math.max(0, this.index), line: this.rowLine});
    }
    if (this.state === 'quoted') {
      const place = placeOf({file: this.file, index: Math.max(0, this.index), line: this.rowLine});
      throw new TfjsLoraError(
        'CORRUPT_FILE',
        `${place}: expected a closing double quote, got the end of the file`,
      );
    }
    yield* this.endRow();
  }

  private *take(piece: string): Generator<Row> {
    for (let at = 0; at < piece.length; at++) {
      const isSecondOfBreak = this.afterReturn && piece[at] === '\n';
      this.afterReturn = false;
      if (isSecondOfBreak && this.state !== 'quoted') continue;
      if (this.state === 'bare' || this.state === 'quoted') at = this.takeRun(piece, at);
      if (at === piece.length) return;
      const char = piece[at];
      const isBreak = char === '\n' || char === '\r';
      if (isBreak && !isSecondOfBreak) this.line++;
      if (isBreak) this.afterReturn = char === '\r';
      if (this.state === 'quoted') {
        if (char === '"') this.state = 'quote';
        else this.cell += char;
      } else if (isBreak) {
        yield* this.endRow();
      } else if (char === this.delimiter) {
        this.endCell();
      } else if (char === '"' && this.state === 'quote') {
        this.cell += char;
        this.state = 'quoted';
      } else if (char === '"' && (this.state === 'cell' || this.state === 'row') && this.cell === '') {
        this.state = 'quoted';
      } else {
        this.cell += char;
        // A line of only spaces counts as empty.
        this.state = this.state === 'row' && (char === ' ' || char === '\t') ? 'row' : 'bare';
      }
    }
  }

  /** Takes the characters without a meaning in this state, and returns where they end. */
  private takeRun(piece: string, at: number): number {
    const run = this.state === 'quoted' ? QUOTED_RUN : this.bareRun;
    run.lastIndex = at;
    const [text] = run.exec(piece) as RegExpExecArray;
    this.cell += text;
    this.size += text.length;
    return at + text.length;
  }

  private endCell(): void {
    this.cells.push(this.cell);
    this.cell = '';
    this.state = 'cell';
    this.size++;
  }

  private *endRow(): Generator<Row> {
    if (this.state !== 'row') {
      this.endCell();
      this.index++;
      yield {cells: this.cells, line: this.rowLine};
    }
    this.cells = [];
    this.cell = '';
    this.state = 'row';
    this.rowLine = this.line;
    this.size = 0;
  }
}

const QUOTED_RUN = /[^"\r\n]*/y;

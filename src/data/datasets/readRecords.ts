import {createReadStream} from 'node:fs';
import {extname} from 'node:path';
import {pipeline} from 'node:stream';
import {createGunzip} from 'node:zlib';
import {CsvError, parse} from 'csv-parse';
import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';
import {jsonLineRecords, jsonRecords} from './jsonRecords.ts';
import {parquetRecords} from './parquetRecords.ts';
import {placeOf, type SourceRecord} from './sourceRecord.ts';

type Reader = (path: string) => AsyncGenerator<SourceRecord>;

const READERS: Record<string, Reader> = {
  json: (path) => jsonRecords(bytesOf(path), path),
  jsonl: (path) => jsonLineRecords(bytesOf(path), path),
  csv: (path) => delimitedRecords(path, ','),
  tsv: (path) => delimitedRecords(path, '\t'),
  txt: textRecords,
  parquet: parquetRecords,
};

/** The kind of a data file by its name, without a `.gz`; undefined when it is none. */
export function kindOfFile(path: string): string | undefined {
  const kind = extname(path.replace(/\.gz$/, '')).slice(1).toLowerCase();
  const isRead = Object.hasOwn(READERS, kind) && !(kind === 'parquet' && path.endsWith('.gz'));
  return isRead ? kind : undefined;
}

/**
 * Records of a file, piece by piece, in its order.
 *
 * @throws TfjsLoraError `UNSUPPORTED` for a file of another kind, `FILE_NOT_FOUND`, `CORRUPT_FILE` naming the record
 */
export async function* readRecords(path: string): AsyncGenerator<SourceRecord> {
  const kind = kindOfFile(path);
  if (kind === undefined) {
    const kinds = Object.keys(READERS);
    const got = extname(path).slice(1);
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${path}: expected a ${kinds.join(', ')} file, got ${got ? `.${got}` : 'no extension'}. ` +
        `Nearest: ${nearestNames(got, kinds, 1)}.`,
    );
  }
  try {
    yield* READERS[kind](path);
  } catch (cause) {
    if (cause instanceof TfjsLoraError) throw cause;
    const isMissing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    throw new TfjsLoraError(
      isMissing ? 'FILE_NOT_FOUND' : 'CORRUPT_FILE',
      `${path}: expected a readable ${kind} file, got: ${(cause as Error).message}`,
      {cause},
    );
  }
}

function bytesOf(path: string): AsyncIterable<Uint8Array> {
  const file = createReadStream(path, {highWaterMark: 1 << 20});
  return path.endsWith('.gz') ? pipeline(file, createGunzip(), () => {}) : file;
}

/** Rows under a header line. */
async function* delimitedRecords(path: string, delimiter: string): AsyncGenerator<SourceRecord> {
  const parser = parse({columns: true, bom: true, skip_empty_lines: true, info: true, delimiter});
  const rows = pipeline(bytesOf(path), parser, () => {}) as AsyncIterable<{
    record: Record<string, string>;
    info: {lines: number};
  }>;
  let index = 0;
  try {
    for await (const {record: value, info} of rows)
      yield {value, file: path, index: index++, line: info.lines};
  } catch (cause) {
    if (!(cause instanceof CsvError)) throw cause;
    // The parser is ahead of what was read of it.
    const {records = index, lines} = cause as CsvError & {records?: number; lines?: number};
    const place = placeOf({file: path, index: records, line: lines});
    throw new TfjsLoraError('CORRUPT_FILE', `${place}: ${cause.message}`, {cause});
  }
}

/** Lines of text as `{text}`; empty ones are kept, as by Hugging Face's `text` loader. */
async function* textRecords(path: string): AsyncGenerator<SourceRecord> {
  let [rest, index] = ['', 0];
  const record = (text: string): SourceRecord => ({
    value: {text: text.endsWith('\r') ? text.slice(0, -1) : text},
    file: path,
    index,
    line: ++index,
  });
  const decoder = new TextDecoder();
  for await (const piece of bytesOf(path)) {
    const lines = (rest + decoder.decode(piece, {stream: true})).split('\n');
    rest = lines.pop() as string;
    for (const line of lines) yield record(line);
  }
  rest += decoder.decode();
  if (rest !== '') yield record(rest);
}

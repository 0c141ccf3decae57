import {createReadStream} from 'node:fs';
import {stat} from 'node:fs/promises';
import {extname} from 'node:path';
import {pipeline} from 'node:stream';
import {createGunzip} from 'node:zlib';
import {counted} from '../../../quant/counted.ts';
import {Utf8Decoder} from '../../../quant/decodeUtf8.ts';
import {didYouMean, TfjsLoraError} from '../../../quant/errors.ts';
import {delimitedRecords} from './delimitedRecords.ts';
import {jsonLineRecords, jsonRecords} from './jsonRecords.ts';
import {parquetRecords} from './parquetRecords.ts';
import {assertRecordSize, type SourceRecord} from './sourceRecord.ts';

type Reader = (path: string) => AsyncGenerator<SourceRecord>;

const READERS: Record<string, Reader> = {
  json: (path) => jsonRecords(bytesOf(path), path),
  jsonl: (path) => jsonLineRecords(bytesOf(path), path),
  csv: (path) => delimitedRecords(textOf(path), path, ','),
  tsv: (path) => delimitedRecords(textOf(path), path, '\t'),
  txt: textRecords,
  parquet: parquetRecords,
};

/**
 * Limits of a compressed file: it may unpack to this many bytes, plus so many times its size, since real text
 * compresses three- to twentyfold. Each record takes some bytes even when compressed.
 */
const UNPACKED = {bytes: 2 ** 26, times: 50, records: 2 ** 20, bytesPerRecord: 4};

/** Returns the kind of a data file from its name, ignoring a `.gz`; undefined when it is not a data file. */
export function kindOfFile(path: string): string | undefined {
  const kind = extname(path.replace(/\.gz$/, '')).slice(1).toLowerCase();
  const isRead = Object.hasOwn(READERS, kind) && !(kind === 'parquet' && path.endsWith('.gz'));
  return isRead ? kind : undefined;
}

/**
 * Reads a file's records in order, piece by piece.
 *
 * @throws TfjsLoraError `UNSUPPORTED` for a file of another kind, `FILE_NOT_FOUND`, `CORRUPT_FILE` naming the record,
 *   or the first byte that is not UTF-8
 */
export async function* readRecords(path: string): AsyncGenerator<SourceRecord> {
  const kind = kindOfFile(path);
  if (kind === undefined) {
    const kinds = Object.keys(READERS);
    const got = extname(path).slice(1);
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${path}: expected a ${kinds.join(', ')} file, got ${got ? `.${got}` : 'no extension'}. ` +
        (/^(xlsx?|ods|numbers)$/i.test(got) ? 'Save the spreadsheet as csv.' : 'Convert it to one of them.') +
        didYouMean(got, kinds),
    );
  }
  try {
    const most = path.endsWith('.gz') ? await mostRecords(path) : Number.POSITIVE_INFINITY;
    for await (const record of READERS[kind](path)) {
      if (record.index >= most) throw tooMuch(path, counted(most, 'record'));
      yield record;
    }
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
  return path.endsWith('.gz')
    ? unpacked(
        path,
        pipeline(file, createGunzip(), () => {}),
      )
    : file;
}

async function* unpacked(path: string, pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let [bytes, most] = [0, 0];
  for await (const piece of pieces) {
    most ||= UNPACKED.bytes + UNPACKED.times * (await stat(path)).size;
    bytes += piece.length;
    if (bytes > most) throw tooMuch(path, counted(most, 'byte'));
    yield piece;
  }
}

async function mostRecords(path: string): Promise<number> {
  return UNPACKED.records + Math.floor((await stat(path)).size / UNPACKED.bytesPerRecord);
}

function tooMuch(path: string, most: string): TfjsLoraError {
  return new TfjsLoraError(
    'CORRUPT_FILE',
    `${path}: expected at most ${most} when unpacked (a limit that follows from the file's size), got more. ` +
      'If you trust the file, unpack it yourself.',
  );
}

async function* textOf(path: string): AsyncGenerator<string> {
  const decoder = new Utf8Decoder(path);
  for await (const piece of bytesOf(path)) yield decoder.decode(piece);
  decoder.end();
}

/** Reads lines of text as `{text}`; keeps empty ones, as Hugging Face's `text` loader does. */
async function* textRecords(path: string): AsyncGenerator<SourceRecord> {
  let [rest, index] = ['', 0];
  const record = (text: string): SourceRecord => ({
    value: {text: text.endsWith('\r') ? text.slice(0, -1) : text},
    file: path,
    index,
    line: ++index,
  });
  for await (const piece of textOf(path)) {
    const lines = piece.split('\n');
    lines[0] = rest + lines[0];
    rest = lines.pop() as string;
    assertRecordSize(rest.length, {file: path, index, line: index + 1});
    for (const line of lines) yield record(line);
  }
  if (rest !== '') yield record(rest);
}

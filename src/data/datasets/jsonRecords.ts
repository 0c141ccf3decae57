import {TfjsLoraError} from '../../../quant/errors.ts';
import {placeOf, type SourceRecord} from './sourceRecord.ts';

const [QUOTE, BACKSLASH, NEWLINE, COMMA, OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] =
  Buffer.from('"\\\n,[]{}');
const isSpace = (byte: number) => byte === 32 || (byte >= 9 && byte <= 13);

/** JSON records, one a line; empty lines are skipped. Reads piece by piece, so that files may be larger than memory. */
export async function* jsonLineRecords(
  bytes: AsyncIterable<Uint8Array>,
  file: string,
): AsyncGenerator<SourceRecord> {
  let rest: Uint8Array[] = [];
  let [line, index] = [0, 0];
  const take = function* (lineBytes: Uint8Array[]): Generator<SourceRecord> {
    line++;
    const text = withoutByteOrderMark(Buffer.concat(lineBytes).toString('utf8')).trim();
    if (text === '') return;
    yield parseRecord(text, {file, index: index++, line});
  };
  for await (const piece of bytes) {
    let start = 0;
    for (let end = piece.indexOf(NEWLINE); end >= 0; end = piece.indexOf(NEWLINE, start)) {
      yield* take([...rest, piece.subarray(start, end)]);
      rest = [];
      start = end + 1;
    }
    if (start < piece.length) rest.push(Uint8Array.from(piece.subarray(start)));
  }
  yield* take(rest);
}

/**
 * Records of a JSON file: a list of them, or one after the other. Reads piece by piece.
 *
 * @throws TfjsLoraError `CORRUPT_FILE` naming the record and its line
 */
export async function* jsonRecords(
  bytes: AsyncIterable<Uint8Array>,
  file: string,
): AsyncGenerator<SourceRecord> {
  let [line, index, depth, recordLine] = [1, 0, 0, 1];
  let [isString, isEscaped, isList, isClosed, needsComma] = [false, false, false, false, false];
  let parts: Uint8Array[] = [];
  let isFirstPiece = true;
  const corrupt = (expected: string, got: string) =>
    new TfjsLoraError('CORRUPT_FILE', `${file} line ${line}: expected ${expected}, got ${got}`);

  for await (const given of bytes) {
    const piece =
      isFirstPiece && given[0] === 0xef && given[1] === 0xbb && given[2] === 0xbf ? given.subarray(3) : given;
    isFirstPiece = false;
    let start = 0; // of the record's part in this piece
    for (let i = 0; i < piece.length; i++) {
      const byte = piece[i];
      if (byte === NEWLINE) line++;
      if (isString) {
        if (isEscaped) isEscaped = false;
        else if (byte === BACKSLASH) isEscaped = true;
        else if (byte === QUOTE) isString = false;
        continue;
      }
      if (depth > 0) {
        if (byte === QUOTE) isString = true;
        else if (byte === OPEN_OBJECT || byte === OPEN_LIST) depth++;
        else if (byte === CLOSE_OBJECT || byte === CLOSE_LIST) depth--;
        if (depth > 0) continue;
        const text = Buffer.concat([...parts, piece.subarray(start, i + 1)]).toString('utf8');
        parts = [];
        yield parseRecord(text, {file, index: index++, line: recordLine});
        needsComma = isList;
        continue;
      }
      if (isSpace(byte)) continue;
      if (byte === OPEN_OBJECT && !needsComma && !isClosed) {
        [depth, start, recordLine] = [1, i, line];
      } else if (byte === OPEN_LIST && index === 0 && !isList) {
        isList = true;
      } else if (byte === COMMA && needsComma) {
        needsComma = false;
      } else if (byte === CLOSE_LIST && isList && !isClosed && (needsComma || index === 0)) {
        isClosed = true;
        needsComma = false;
      } else {
        const expected = isClosed ? 'nothing after the list' : needsComma ? 'a comma or ]' : 'a record {…}';
        throw corrupt(expected, JSON.stringify(Buffer.from(piece.subarray(i, i + 20)).toString('utf8')));
      }
    }
    if (depth > 0) parts.push(Uint8Array.from(piece.subarray(start)));
  }
  if (depth > 0) {
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${file} record ${index} (line ${recordLine}): expected its closing }, got the end of the file`,
    );
  }
  if (isList && !isClosed) throw corrupt("the list's closing ]", 'the end of the file');
}

function parseRecord(text: string, place: Omit<SourceRecord, 'value'>): SourceRecord {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${placeOf(place)}: expected JSON, got: ${(cause as Error).message}`,
      {cause},
    );
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value))
    return {value: value as Record<string, unknown>, ...place};
  throw new TfjsLoraError(
    'CORRUPT_FILE',
    `${placeOf(place)}: expected an object {…}, got ${text.slice(0, 60)}`,
  );
}

const withoutByteOrderMark = (text: string) => (text.charCodeAt(0) === 0xfeff ? text.slice(1) : text);

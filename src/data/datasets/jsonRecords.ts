import {MAX_JSON_DEPTH, parsePythonJson} from '../../../models/pythonJson.ts';
import {decodeUtf8, Utf8Decoder} from '../../../quant/decodeUtf8.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertRecordSize, placeOf, type SourceRecord} from './sourceRecord.ts';

const [QUOTE, BACKSLASH, NEWLINE, COMMA, OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] =
  Buffer.from('"\\\n,[]{}');
const BYTE_ORDER_MARK = [0xef, 0xbb, 0xbf];
const isSpace = (byte: number) => byte === 32 || (byte >= 9 && byte <= 13);

/**
 * Reads JSON records, one per line, and skips empty lines. A file that begins with a list is read as one list. Reads
 * piece by piece, so that files may be larger than memory.
 *
 * @throws TfjsLoraError `CORRUPT_FILE` naming the record and its line, or the byte that is not UTF-8
 */
export async function* jsonLineRecords(
  bytes: AsyncIterable<Uint8Array>,
  file: string,
): AsyncGenerator<SourceRecord> {
  const {first, pieces} = await peek(bytes);
  if (first === OPEN_LIST) {
    yield* jsonRecords(pieces, file);
    return;
  }
  let rest: Uint8Array[] = [];
  let [line, index, restBytes, lineStart] = [0, 0, 0, 0];
  const take = function* (lineBytes: Uint8Array): Generator<SourceRecord> {
    line++;
    const text = decodeUtf8(lineBytes, file, lineStart).trim();
    lineStart += lineBytes.length + 1;
    [rest, restBytes] = [[], 0];
    if (text !== '') yield parseRecord(text, {file, index: index++, line});
  };
  for await (const piece of pieces) {
    let start = 0;
    for (let end = piece.indexOf(NEWLINE); end >= 0; end = piece.indexOf(NEWLINE, start)) {
      yield* take(Buffer.concat([...rest, piece.subarray(start, end)]));
      start = end + 1;
    }
    if (start === piece.length) continue;
    rest.push(Uint8Array.from(piece.subarray(start)));
    restBytes += piece.length - start;
    assertRecordSize(restBytes, {file, index, line: line + 1});
  }
  yield* take(Buffer.concat(rest));
}

/**
 * Reads the records of a JSON file: one list, or one record after another. Reads piece by piece. Accepts control
 * characters within strings and `NaN`, as Hugging Face's `json` loader does.
 *
 * @throws TfjsLoraError `CORRUPT_FILE` naming the record and its line, or the byte that is not UTF-8
 */
export async function* jsonRecords(
  bytes: AsyncIterable<Uint8Array>,
  file: string,
): AsyncGenerator<SourceRecord> {
  let [depth, line, index, recordLine, recordStart] = [0, 1, 0, 1, 0];
  let [isString, isEscaped, isList, isClosed, needsComma] = [false, false, false, false, false];
  let parts: Uint8Array[] = [];
  let [pieceStart, partBytes] = [0, 0];
  const corrupt = (expected: string, got: string) =>
    new TfjsLoraError('CORRUPT_FILE', `${file} line ${line}: expected ${expected}, got ${got}`);

  for await (const piece of bytes) {
    let start = 0; // start of the record's part in this piece
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
        if (depth > MAX_JSON_DEPTH) throw corrupt(`at most ${MAX_JSON_DEPTH} nested brackets`, 'more');
        if (depth > 0) continue;
        const text = decodeUtf8(Buffer.concat([...parts, piece.subarray(start, i + 1)]), file, recordStart);
        [parts, partBytes] = [[], 0];
        yield parseRecord(text, {file, index: index++, line: recordLine});
        needsComma = isList;
        continue;
      }
      if (isSpace(byte) || byte === BYTE_ORDER_MARK[pieceStart + i]) continue;
      if (byte === OPEN_OBJECT && !needsComma && !isClosed) {
        [depth, start, recordLine, recordStart] = [1, i, line, pieceStart + i];
      } else if (byte === OPEN_LIST && index === 0 && !isList) {
        isList = true;
      } else if (byte === COMMA && needsComma) {
        needsComma = false;
      } else if (byte === CLOSE_LIST && isList && !isClosed && (needsComma || index === 0)) {
        isClosed = true;
        needsComma = false;
      } else {
        const expected = isClosed ? 'nothing after the list' : needsComma ? 'a comma or ]' : 'a record {…}';
        new Utf8Decoder(file, pieceStart + i).decode(piece.subarray(i)); // throws when it is not text
        throw corrupt(expected, JSON.stringify(Buffer.from(piece.subarray(i, i + 20)).toString('utf8')));
      }
    }
    pieceStart += piece.length;
    if (depth === 0) continue;
    parts.push(Uint8Array.from(piece.subarray(start)));
    partBytes += piece.length - start;
    assertRecordSize(partBytes, {file, index, line: recordLine});
  }
  if (depth > 0) {
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${file} record ${index} (line ${recordLine}): expected its closing }, got the end of the file`,
    );
  }
  if (isList && !isClosed) throw corrupt("the list's closing ]", 'the end of the file');
}

/** Returns the first byte that is not a space, and all pieces, including those read to find it. */
async function peek(
  bytes: AsyncIterable<Uint8Array>,
): Promise<{first?: number; pieces: AsyncIterable<Uint8Array>}> {
  const iterator = bytes[Symbol.asyncIterator]();
  const read: Uint8Array[] = [];
  let [first, start]: [number | undefined, number] = [undefined, 0];
  while (first === undefined) {
    const {done, value} = await iterator.next();
    if (done) break;
    const piece = Uint8Array.from(value); // the reader may reuse its memory
    read.push(piece);
    first = piece.find((byte, i) => !isSpace(byte) && byte !== BYTE_ORDER_MARK[start + i]);
    start += piece.length;
  }
  const pieces = async function* () {
    yield* read;
    yield* {[Symbol.asyncIterator]: () => iterator};
  };
  return {first, pieces: pieces()};
}

function parseRecord(text: string, place: Omit<SourceRecord, 'value'>): SourceRecord {
  let value: unknown;
  try {
    value = parsePythonJson(text, {controlCharacters: true});
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

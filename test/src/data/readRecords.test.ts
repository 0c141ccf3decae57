import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {gzipSync} from 'node:zlib';
import fc from 'fast-check';
import {jsonLineRecords, jsonRecords} from '../../../src/data/datasets/jsonRecords.ts';
import {kindOfFile, readRecords} from '../../../src/data/datasets/readRecords.ts';
import type {SourceRecord} from '../../../src/data/datasets/sourceRecord.ts';

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-records-'));
});

afterAll(() => rmSync(folder, {recursive: true}));

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

function write(name: string, contents: string | Buffer): string {
  const path = join(folder, name);
  writeFileSync(path, contents);
  return path;
}

const valuesOf = (records: SourceRecord[]) => records.map(({value}) => value);

async function* inPieces(text: string, sizes: number[]): AsyncGenerator<Uint8Array> {
  const bytes = Buffer.from(text);
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length];
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

describe('JSON', () => {
  const record = fc.dictionary(fc.string(), fc.jsonValue(), {noNullPrototype: true});
  const sizes = fc.array(fc.integer({min: 1, max: 40}), {minLength: 1});

  test('lists and lines of any records are read back, wherever the pieces end', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(record), sizes, fc.constantFrom(0, 2), async (records, pieces, indent) => {
        const plain = JSON.parse(JSON.stringify(records)); // −0 becomes 0
        const list = JSON.stringify(records, null, indent);
        expect(valuesOf(await all(jsonRecords(inPieces(list, pieces), 'x.json')))).toEqual(plain);
        const lines = records.map((each) => JSON.stringify(each)).join('\n');
        expect(valuesOf(await all(jsonRecords(inPieces(lines, pieces), 'x.json')))).toEqual(plain);
        expect(valuesOf(await all(jsonLineRecords(inPieces(lines, pieces), 'x.jsonl')))).toEqual(plain);
      }),
      {numRuns: 60},
    );
  });

  test('records know their lines', async () => {
    const list = write('lines.json', '\ufeff[\n{"a": "\\"}{"},\n\n{\n"a": [1, {"b": 2}]\n}\n]\n');
    expect(await all(readRecords(list))).toEqual([
      {value: {a: '"}{'}, file: list, index: 0, line: 2},
      {value: {a: [1, {b: 2}]}, file: list, index: 1, line: 4},
    ]);
    const lines = write('lines.jsonl', '\ufeff{"a": 1}\r\n\r\n{"a": 2}');
    expect(await all(readRecords(lines))).toEqual([
      {value: {a: 1}, file: lines, index: 0, line: 1},
      {value: {a: 2}, file: lines, index: 1, line: 3},
    ]);
  });

  test.each([
    ['cut.json', '[{"a": 1},\n{"a": 2', 'record 1 (line 2): expected its closing }, got the end of the file'],
    ['open.json', '[{"a": 1}\n', "line 2: expected the list's closing ], got the end of the file"],
    ['comma.json', '[{"a": 1}\n{"a": 2}]', 'line 2: expected a comma or ], got "{\\"a\\": 2}]"'],
    ['trailing.json', '[{"a": 1},]', 'line 1: expected a record {…}, got "]"'],
    ['after.json', '[{"a": 1}] x', 'line 1: expected nothing after the list, got "x"'],
    ['scalars.json', '[1, 2]', 'line 1: expected a record {…}, got "1, 2]"'],
    ['broken.json', '[{"a": 1},\n{"a": tru}]', 'record 1 (line 2): expected JSON, got: '],
    ['broken.jsonl', '{"a": 1}\n{"a": \n', 'record 1 (line 2): expected JSON, got: '],
    ['list.jsonl', '[1]\n', 'record 0 (line 1): expected an object {…}, got [1]'],
  ])('%s is refused with the place', async (name, text, message) => {
    const path = write(name, text);
    await expect(all(readRecords(path))).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringContaining(`${path} ${message}`),
    });
  });
});

test('CSV and TSV: quotes, line breaks, a byte order mark', async () => {
  const csv = write('x.csv', '\ufeffinstruction,output\n"a, ""b""\nc",d\n\ne,\n');
  expect(valuesOf(await all(readRecords(csv)))).toEqual([
    {instruction: 'a, "b"\nc', output: 'd'},
    {instruction: 'e', output: ''},
  ]);
  const tsv = write('x.tsv', 'instruction\toutput\na,b\tc\n');
  expect(valuesOf(await all(readRecords(tsv)))).toEqual([{instruction: 'a,b', output: 'c'}]);
  const short = write('short.csv', 'a,b\n1,2\n3\n');
  await expect(all(readRecords(short))).rejects.toMatchObject({
    code: 'CORRUPT_FILE',
    message: expect.stringMatching(/short\.csv record 1 \(line 3\): .*columns/),
  });
});

test('lines of text, and gzip around any kind', async () => {
  const text = write('x.txt', 'one\r\n\ntwo é');
  expect(valuesOf(await all(readRecords(text)))).toEqual([{text: 'one'}, {text: ''}, {text: 'two é'}]);
  const zipped = write('x.jsonl.gz', gzipSync('{"a": 1}\n{"a": 2}\n'));
  expect(valuesOf(await all(readRecords(zipped)))).toEqual([{a: 1}, {a: 2}]);
  const torn = write('torn.jsonl.gz', gzipSync('{"a": 1}\n{"a": 2}\n').subarray(0, 20));
  await expect(all(readRecords(torn))).rejects.toMatchObject({code: 'CORRUPT_FILE'});
});

describe('Parquet', () => {
  const fixtures = join(__dirname, 'fixtures');

  test.each(['none', 'snappy', 'gzip', 'zstd', 'brotli', 'lz4'])(
    '%s, several row groups',
    async (compression) => {
      const records = await all(readRecords(join(fixtures, `alpaca-${compression}.parquet`)));
      expect(records.map(({index}) => index)).toEqual([0, 1, 2, 3, 4, 5, 6]);
      expect(valuesOf(records).slice(2, 4)).toEqual([
        {instruction: 'Question 2?', input: 'é', output: 'Answer 2.'},
        {instruction: 'Question 3?', input: null, output: 'Answer 3.'},
      ]);
    },
  );

  test('lists of messages', async () => {
    const [{value}] = await all(readRecords(join(fixtures, 'sharegpt.parquet')));
    expect((value.conversations as object[]).slice(0, 2)).toEqual([
      {from: 'system', value: 'Be brief.'},
      {from: 'human', value: 'Name a prime.'},
    ]);
  });

  test('a file that is none', async () => {
    const path = write('x.parquet', 'PAR1 and no more');
    await expect(all(readRecords(path))).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringContaining(`${path}: expected a readable parquet file, got: `),
    });
  });
});

test('other kinds and missing files', async () => {
  expect(['a.JSON', 'b.csv.gz', 'c.parquet.gz', 'd.zip', 'e'].map(kindOfFile)).toEqual([
    'json',
    'csv',
    undefined,
    undefined,
    undefined,
  ]);
  await expect(all(readRecords('x.jsonk'))).rejects.toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringMatching(/got \.jsonk\. Nearest: jsonl?\./),
  });
  await expect(all(readRecords(join(folder, 'none.json')))).rejects.toMatchObject({code: 'FILE_NOT_FOUND'});
});

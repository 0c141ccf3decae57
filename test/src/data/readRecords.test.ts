import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {gzipSync} from 'node:zlib';
import fc from 'fast-check';
import {writePythonJson} from '../../../models/pythonJson.ts';
import {PythonFloat} from '../../../models/pythonValue.ts';
import {delimitedRecords} from '../../../src/data/datasets/delimitedRecords.ts';
import {jsonLineRecords, jsonRecords} from '../../../src/data/datasets/jsonRecords.ts';
import {kindOfFile, readRecords} from '../../../src/data/datasets/readRecords.ts';
import type {SourceRecord} from '../../../src/data/datasets/sourceRecord.ts';
import pandasRows from './fixtures/pandasRows.json';

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

  test('lists and lines of any records are read correctly, wherever the pieces end', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(record), sizes, fc.constantFrom(0, 2), async (records, pieces, indent) => {
        const plain = JSON.parse(JSON.stringify(records)); // −0 becomes 0
        const plainOf = (read: SourceRecord[]) => JSON.parse(writePythonJson(valuesOf(read)));
        const list = JSON.stringify(records, null, indent);
        expect(plainOf(await all(jsonRecords(inPieces(list, pieces), 'x.json')))).toEqual(plain);
        const lines = records.map((each) => JSON.stringify(each)).join('\n');
        expect(plainOf(await all(jsonRecords(inPieces(lines, pieces), 'x.json')))).toEqual(plain);
        expect(plainOf(await all(jsonLineRecords(inPieces(lines, pieces), 'x.jsonl')))).toEqual(plain);
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
    ['scalars.jsonl', '[1]\n', 'line 1: expected a record {…}, got "1]\\n"'],
    ['list.jsonl', '{}\n[{}]\n', 'record 1 (line 2): expected an object {…}, got [{}]'],
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
    {instruction: 'e', output: null},
  ]);
  const tsv = write('x.tsv', 'instruction\toutput\na,b\tc\n');
  expect(valuesOf(await all(readRecords(tsv)))).toEqual([{instruction: 'a,b', output: 'c'}]);
  const long = write('long.csv', 'a,b\n1,2\n3,4,5\n');
  await expect(all(readRecords(long))).rejects.toMatchObject({
    code: 'CORRUPT_FILE',
    message: expect.stringContaining(
      'long.csv record 1 (line 3): expected 2 columns as in the header, got 3.',
    ),
  });
  const open = write('open.csv', 'a,b\n1,2\n3,"4\n\n');
  await expect(all(readRecords(open))).rejects.toMatchObject({
    code: 'CORRUPT_FILE',
    message: expect.stringContaining('open.csv record 1 (line 3): expected a closing double quote'),
  });
});

test('CSV as pandas reads it, wherever the pieces end', async () => {
  for (const [text, rows] of pandasRows as [string, (string | null)[][] | null][]) {
    const path = write('pandas.csv', text);
    if (rows === null) {
      await expect(all(readRecords(path))).rejects.toMatchObject({code: 'CORRUPT_FILE'});
      continue;
    }
    expect(valuesOf(await all(readRecords(path))).map(Object.values)).toEqual(rows);
    const pieces = (async function* () {
      for (let at = 0; at < text.length; at += 2) yield text.slice(at, at + 2);
    })();
    expect(valuesOf(await all(delimitedRecords(pieces, 'x.csv', ','))).map(Object.values)).toEqual(rows);
  }
});

describe('files that peers read too', () => {
  test('a list in a .jsonl file, NaN, and control characters within strings', async () => {
    const list = write('of-lists.jsonl', '\ufeff \n[{"a": "x\ny\u0001"},\n {"a": NaN}]\n');
    expect(await all(readRecords(list))).toEqual([
      {value: {a: 'x\ny\u0001'}, file: list, index: 0, line: 2},
      {value: {a: new PythonFloat(Number.NaN)}, file: list, index: 1, line: 4},
    ]);
  });

  test('numbers keep their form', async () => {
    const text = '{"id": 9007199254740993, "f": 2.0, "z": -0.0, "e": 1e5, "n": -Infinity, "10": 1, "2": 2}';
    for (const name of ['numbers.json', 'numbers.jsonl']) {
      const [{value}] = await all(readRecords(write(name, text)));
      expect(writePythonJson(value)).toBe(text.replace('1e5', '100000.0'));
    }
  });
});

describe('bytes that are not UTF-8', () => {
  const latin1 = (text: string) => Buffer.from(text, 'latin1');

  test.each([
    ['x1.json', '[{"a": "b"},\n{"a": "café"}]', 23],
    ['x2.jsonl', '{"a": "b"}\n{"a": "café"}\n', 21],
    ['x3.csv', 'a\nb\ncafé\n', 7],
    ['x4.tsv', 'a\tb\ncafé\tc\n', 7],
    ['x5.txt', 'a\ncafé', 5],
    ['x6.json', '[{"a": "b"},é ]', 12],
  ])('%s', async (name, text, byte) => {
    const message = (path: string) =>
      `${path} byte ${byte}: expected UTF-8 text, got 0xe9. Save the file as UTF-8.`;
    const path = write(name, latin1(text));
    await expect(all(readRecords(path))).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
      message: message(path),
    });
    const zipped = write(`${name}.gz`, gzipSync(latin1(text)));
    await expect(all(readRecords(zipped))).rejects.toMatchObject({message: message(zipped)});
  });

  test('UTF-16', async () => {
    const path = write('utf16.json', Buffer.from('\ufeff[{"a": "b"}]', 'utf16le'));
    await expect(all(readRecords(path))).rejects.toThrow(`${path} byte 0: expected UTF-8 text, got 0xff`);
  });
});

test('a small file that unpacks to a huge one is refused while it unpacks', async () => {
  const bomb = write('bomb.json.gz', gzipSync(Buffer.alloc(2 ** 27, ' ')));
  await expect(all(readRecords(bomb))).rejects.toMatchObject({
    code: 'CORRUPT_FILE',
    message: expect.stringMatching(/bomb\.json\.gz: expected at most \d+ bytes when unpacked/),
  });
  const many = write('many.jsonl.gz', gzipSync('{}\n'.repeat(1_100_000)));
  await expect(all(readRecords(many))).rejects.toThrow(
    /many\.jsonl\.gz: expected at most \d+ records when unpacked/,
  );
});

test('the depth of brackets is limited', async () => {
  for (const [name, text] of [
    ['deep.json', `[{"a": ${'['.repeat(600)}${']'.repeat(600)}}]`],
    ['deep.jsonl', `{"a": ${'['.repeat(1e6)}`],
  ]) {
    await expect(all(readRecords(write(name, text)))).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringContaining('at most 512 nested brackets'),
    });
  }
});

test('lines of text, and any kind compressed with gzip', async () => {
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

  describe('broken', () => {
    const whole = () => readFileSync(join(fixtures, 'lists.parquet'));

    test('a run that never ends', async () => {
      const bytes = whole();
      bytes[759] = 1;
      const path = write('endless.parquet', bytes);
      await expect(all(readRecords(path))).rejects.toMatchObject({
        code: 'CORRUPT_FILE',
        message: `${path}: expected a readable parquet file, got: no result after 3 seconds of decoding a row group`,
      });
    });

    test('two faults, the second after the answer', async () => {
      const bytes = whole();
      bytes.write('X', bytes.lastIndexOf('conv'));
      bytes[4] = 0xff;
      await expect(all(readRecords(write('two.parquet', bytes)))).rejects.toMatchObject({
        code: 'CORRUPT_FILE',
        message: expect.stringContaining('schema element not found: Xonv'),
      });
    });

    test('a reader that is stopped early leaves no process', async () => {
      for await (const {value} of readRecords(write('whole.parquet', whole()))) {
        expect(value).toMatchObject({instruction: 'q', l: [1n, 2n]});
        break;
      }
    });
  });

  test('an invalid file', async () => {
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
    message: expect.stringMatching(/got \.jsonk\. Convert it to one of them\. Did you mean jsonl?\?/),
  });
  await expect(all(readRecords(join(folder, 'none.json')))).rejects.toMatchObject({code: 'FILE_NOT_FOUND'});
});

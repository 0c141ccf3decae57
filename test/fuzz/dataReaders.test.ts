import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {gzipSync} from 'node:zlib';
import fc from 'fast-check';
import {ChatTemplate} from '../../models/chatTemplate/chatTemplate.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {setWarningHandler} from '../../quant/warn.ts';
import {convertRecord} from '../../src/data/datasets/convertRecord.ts';
import {findSources, readDatasetInfo} from '../../src/data/datasets/datasetInfo.ts';
import {readRecords} from '../../src/data/datasets/readRecords.ts';
import {describeTools, writeFunctionCalls} from '../../src/data/templates/toolFormats.ts';

/**
 * What reads data from elsewhere either reads it or throws a typed error, for any bytes. `TFJS_LORA_FUZZ_RUNS` multiplies
 * the runs, `TFJS_LORA_FUZZ_SEED` gives another seed than the committed one.
 */
const times = Number(process.env.TFJS_LORA_FUZZ_RUNS ?? 1);
const seed = Number(process.env.TFJS_LORA_FUZZ_SEED ?? 20_261_130);
jest.setTimeout(120_000 * Math.max(1, times));
const runs = (numRuns: number) => ({numRuns: Math.ceil(numRuns * times), seed});

let folder: string;
let before: (message: string) => void;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-fuzz-'));
  before = setWarningHandler(() => {});
});

afterAll(() => {
  setWarningHandler(before);
  rmSync(folder, {recursive: true});
});

/** Bytes of a whole file with some of them changed, left out or doubled. */
function mutated(whole: Uint8Array): fc.Arbitrary<Uint8Array> {
  const change = fc.record({
    at: fc.nat(whole.length),
    kind: fc.constantFrom('set', 'flip', 'delete', 'repeat', 'insert'),
    bytes: fc.uint8Array({minLength: 1, maxLength: 8}),
  });
  return fc.array(change, {minLength: 1, maxLength: 4}).map((changes) => {
    let bytes = Buffer.from(whole);
    for (const {at, kind, bytes: given} of changes) {
      const [head, tail] = [bytes.subarray(0, at), bytes.subarray(at)];
      if (kind === 'set') bytes = Buffer.concat([head, given, tail.subarray(given.length)]);
      else if (kind === 'flip' && at < bytes.length) bytes[at] ^= 1 << (given[0] % 8);
      else if (kind === 'delete') bytes = Buffer.concat([head, tail.subarray(given[0])]);
      else if (kind === 'repeat') bytes = Buffer.concat([head, tail.subarray(0, given[0]), tail]);
      else if (kind === 'insert') bytes = Buffer.concat([head, given, tail]);
    }
    return bytes;
  });
}

async function typedOrFine(run: () => unknown): Promise<void> {
  try {
    await run();
  } catch (error) {
    if (!(error instanceof TfjsLoraError)) throw error;
    expect(error.message.length).toBeLessThan(3000);
  }
}

const TOOLS =
  '[{"name": "f", "parameters": {"properties": {"a": {"type": "x", "enum": [1]}}, "required": ["a"]}}]';
const SEEDS: Record<string, string> = {
  json: `[{"a": "é\\u00e9", "b": [1, 2.0, -1e5, NaN, null], "c": {"d": true}}, {"a": "", "tools": ${JSON.stringify(TOOLS)}}]`,
  jsonl:
    '{"a": "x", "messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}\n{"a": -0.0}\n',
  csv: 'a,b,messages\n"x, ""y""\nz",NA,"[{""from"": 1}]"\nq "r" s,,\n',
  tsv: 'a\tb\n1\t2\n',
  txt: 'line é\r\n\nanother\n',
};

const SOURCES = findSources(
  ['alpaca', 'sharegpt', 'openai'],
  {
    alpaca: {file_name: 'x', columns: {prompt: 'a', response: 'b', history: 'c', tools: 'tools'}},
    sharegpt: {
      file_name: 'x',
      formatting: 'sharegpt',
      columns: {messages: 'messages', tools: 'tools', system: 'a'},
    },
    openai: {file_name: 'x', formatting: 'openai', columns: {messages: 'messages', tools: 'b'}},
  },
  'fuzz',
);

async function readAndConvert(path: string): Promise<void> {
  for await (const record of readRecords(path)) {
    for (const source of SOURCES) await typedOrFine(() => convertRecord(record, source));
  }
}

test.each(Object.keys(SEEDS))('.%s', async (kind) => {
  const plain = join(folder, `x.${kind}`);
  const zipped = `${plain}.gz`;
  const bytes = Buffer.from(SEEDS[kind]);
  await fc.assert(
    fc.asyncProperty(fc.oneof(mutated(bytes), fc.uint8Array()), async (contents) => {
      writeFileSync(plain, contents);
      await typedOrFine(() => readAndConvert(plain));
    }),
    runs(300),
  );
  await fc.assert(
    fc.asyncProperty(mutated(gzipSync(bytes)), async (contents) => {
      writeFileSync(zipped, contents);
      await typedOrFine(() => readAndConvert(zipped));
    }),
    runs(50),
  );
});

test('Parquet', async () => {
  const path = join(folder, 'x.parquet');
  const whole = readFileSync(join(__dirname, '../src/data/fixtures/lists.parquet'));
  await fc.assert(
    fc.asyncProperty(mutated(whole), async (contents) => {
      writeFileSync(path, contents);
      await typedOrFine(() => readAndConvert(path));
    }),
    runs(4), // each is a process
  );
});

test('dataset_info.json', async () => {
  const path = join(folder, 'dataset_info.json');
  const info = {
    x: {file_name: 'a.json', columns: {prompt: 'p'}, tags: {user_tag: 'u'}, num_samples: 3, split: 'train'},
  };
  const anyInfo = fc.dictionary(
    fc.constantFrom(...Object.keys(info.x), 'hf_hub_url', '__proto__'),
    fc.jsonValue(),
  );
  const contents = fc.oneof(
    mutated(Buffer.from(JSON.stringify(info))),
    anyInfo.map((entry) => Buffer.from(JSON.stringify({x: entry}))),
  );
  await fc.assert(
    fc.asyncProperty(contents, async (bytes) => {
      writeFileSync(path, bytes);
      await typedOrFine(async () => findSources(['x'], await readDatasetInfo(path), path));
    }),
    runs(400),
  );
});

test('tools and function calls', async () => {
  const anyTools = fc.array(
    fc.record({
      name: fc.jsonValue(),
      parameters: fc.record({properties: fc.jsonValue(), required: fc.jsonValue()}),
    }),
  );
  const texts = fc.oneof(
    mutated(Buffer.from(TOOLS)).map((bytes) => Buffer.from(bytes).toString()),
    fc.json(),
    anyTools.map((tools) => JSON.stringify(tools)),
  );
  await fc.assert(
    fc.asyncProperty(texts, fc.constantFrom('default', 'llama3'), async (text, format) => {
      await typedOrFine(() => describeTools(format, text, ''));
      await typedOrFine(() => writeFunctionCalls(format, text));
    }),
    runs(400),
  );
});

test('chat templates', async () => {
  const template =
    '{% set ns = namespace(n=0) %}{% macro f(x) %}{{ x | tojson }}{% endmacro %}{% for m in messages if m.role %}{{ f(m) }}' +
    "{{ m['content'] | trim ~ loop.index }}{% if loop.first %}{% continue %}{% endif %}{% set ns.n = ns.n + 1 %}" +
    "{{ range(3)[1:] | join(', ') }}{% endfor %}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}";
  const pieces = template.match(/\{[{%].*?[%}]\}|[^{]+/g) as string[];
  const texts = fc.oneof(
    mutated(Buffer.from(template)).map((bytes) => Buffer.from(bytes).toString()),
    fc
      .array(fc.constantFrom(...pieces, '{% if x %}', '{% endif %}', '{% else %}', '{% break %}', '{{ ns }}'))
      .map((list) => list.join('')),
  );
  await fc.assert(
    fc.asyncProperty(texts, async (text) => {
      const messages = [
        {role: 'user', content: ' q '},
        {role: 'assistant', content: null, calls: [{a: 1.5}]},
      ];
      await typedOrFine(() => new ChatTemplate(text, 'fuzz').render({messages}));
    }),
    runs(400),
  );
});

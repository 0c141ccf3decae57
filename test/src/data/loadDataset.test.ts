import {existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {setWarningHandler} from '../../../quant/warn.ts';
import type {Example} from '../../../src/data/batches/collate.ts';
import type {DatasetArgs} from '../../../src/data/datasets/datasetArgs.ts';
import type {DatasetInfo} from '../../../src/data/datasets/datasetInfo.ts';
import {loadDataset, loadPrompts, loadSplits} from '../../../src/data/loadDataset.ts';
import {llamaTokenizer} from './llamaTokenizer.ts';

let tokenizer: Tokenizer;
let folder: string;
let warnings: string[];
let before: (message: string) => void;

beforeAll(async () => {
  tokenizer = await llamaTokenizer();
});

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-data-'));
  warnings = [];
  before = setWarningHandler((message) => warnings.push(message));
});

afterEach(() => {
  setWarningHandler(before);
  rmSync(folder, {recursive: true});
});

/** Writes data files and the file that describes them. */
function write(info: DatasetInfo | string, files: Record<string, unknown> = {}): void {
  writeFileSync(join(folder, 'dataset_info.json'), typeof info === 'string' ? info : JSON.stringify(info));
  for (const [name, contents] of Object.entries(files))
    writeFileSync(join(folder, name), typeof contents === 'string' ? contents : JSON.stringify(contents));
}

const load = (dataset: string | string[], args: Partial<DatasetArgs> = {}) =>
  loadDataset({dataset, datasetDir: folder, template: 'llama3', tokenizer, ...args, streaming: false});

const textsOf = (examples: Example[]) => examples.map(({inputIds}) => tokenizer.decode(inputIds));
const answersOf = (examples: Example[]) =>
  examples.map(({labels}) =>
    tokenizer.decode(
      labels!.filter((label) => label >= 0),
      {skipSpecialTokens: true},
    ),
  );

const records = (count: number, name = '') =>
  Array.from({length: count}, (_, i) => ({instruction: 'q', output: `${name}${i}`}));

describe('formats', () => {
  test('the same data in every kind of file and format', async () => {
    const turns = [
      {role: 'system', content: 'S'},
      {role: 'user', content: 'Hi'},
      {role: 'assistant', content: 'Hello'},
      {role: 'user', content: 'A\nB'},
      {role: 'assistant', content: 'C'},
    ];
    const alpaca = {instruction: 'A', input: 'B', output: 'C', system: 'S', history: [['Hi', 'Hello']]};
    const columns = {
      prompt: 'instruction',
      query: 'input',
      response: 'output',
      system: 'system',
      history: 'history',
    };
    const tags = {role_tag: 'role', content_tag: 'content', user_tag: 'user', assistant_tag: 'assistant'};
    const own = {columns: {messages: 'chat', system: 'about'}, tags};
    write(
      {
        json: {file_name: 'a.json', columns},
        jsonl: {file_name: 'a.jsonl', columns},
        csv: {file_name: 'a.csv', columns},
        messages: {
          file_name: 'm.json',
          formatting: 'sharegpt',
          columns: {messages: 'messages'},
          tags: {...tags, system_tag: 'system'},
        },
        openai: {
          file_name: 'm.json',
          formatting: 'openai',
          columns: {messages: 'messages'},
          tags: {...tags, system_tag: 'system'},
        },
        own: {file_name: 'o.json', formatting: 'sharegpt', ...own},
      },
      {
        'a.json': [alpaca],
        'a.jsonl': JSON.stringify(alpaca),
        'a.csv': 'instruction,input,output,system,history\nA,B,C,S,"[[""Hi"",""Hello""]]"\n',
        'm.json': [{messages: turns}],
        'o.json': [{chat: turns.slice(1), about: 'S'}],
      },
    );
    const [expected] = await load('json');
    expect(textsOf([expected])).toEqual([
      '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>' +
        '<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>' +
        '<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>' +
        '<|start_header_id|>user<|end_header_id|>\n\nA\nB<|eot_id|>' +
        '<|start_header_id|>assistant<|end_header_id|>\n\nC<|eot_id|>',
    ]);
    expect(answersOf([expected])).toEqual(['HelloC']);
    for (const name of ['jsonl', 'csv', 'messages', 'openai', 'own'])
      expect([name, await load(name)]).toEqual([name, [expected]]);
  });

  test('Parquet, described in place', async () => {
    const datasetDir: DatasetInfo = {x: {file_name: join(__dirname, 'fixtures/alpaca-zstd.parquet')}};
    const examples = await load('x', {template: 'empty', datasetDir});
    expect(textsOf(examples).slice(0, 2)).toEqual(['Question 0?\néAnswer 0.', 'Question 1?Answer 1.']);
  });

  test('a folder of files of one kind, by name', async () => {
    mkdirSync(join(folder, 'parts'));
    write(
      {x: {file_name: 'parts'}, mixed: {file_name: '.'}},
      {'parts/2.json': records(2, 'b'), 'parts/1.json': records(1, 'a'), 'x.csv': ''},
    );
    expect(answersOf(await load('x'))).toEqual(['a0', 'b0', 'b1']);
    await expect(load('mixed')).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining(
        'expected a folder of data files of one kind, got dataset_info.json, parts, x.csv in',
      ),
    });
  });

  test('a record without an answer is left out of training, and kept in prediction', async () => {
    write(
      {x: {file_name: 'x.json'}},
      {
        'x.json': [
          {instruction: 'a', output: 'b'},
          {instruction: 'c', output: null},
        ],
      },
    );
    expect(answersOf(await load('x'))).toEqual(['b']);
    expect(warnings).toEqual([
      `dataset x: skipped 1 of 2 records. The first: ${join(folder, 'x.json')} record 1 (line 1): ` +
        'expected an answer to learn, got none.',
    ]);
    const prompts = await loadPrompts({dataset: 'x', datasetDir: folder, template: 'llama3', tokenizer});
    expect(prompts.map(({label}) => label)).toEqual(['b', '']);
    expect(prompts[1].prompt).toBe(
      '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|>' +
        '<|start_header_id|>assistant<|end_header_id|>\n\n',
    );
  });

  test('data without any answer says how to learn plain text', async () => {
    write({x: {file_name: 'x.txt', columns: {prompt: 'text'}}}, {});
    writeFileSync(join(folder, 'x.txt'), 'Ada founded it.\nIt has a lake.\n');
    await expect(load('x')).rejects.toThrow('or learn plain text with stage pt.');
    await expect(load('x', {stage: 'pt'})).rejects.toThrow(
      'cutoffLength tokens. Lower it (cutoff_len in a recipe), or',
    );
    expect(await load('x', {stage: 'pt', packing: false})).toHaveLength(2);
  });
});

describe('several data sets', () => {
  beforeEach(() =>
    write(
      {
        a: {file_name: 'a.json'},
        b: {file_name: 'b.json'},
        few: {file_name: 'a.json', num_samples: 2},
        many: {file_name: 'a.json', num_samples: 7},
      },
      {'a.json': records(3, 'a'), 'b.json': records(2, 'b')},
    ),
  );

  test('one after the other, and by turns', async () => {
    expect(answersOf(await load('a, b'))).toEqual(['a0', 'a1', 'a2', 'b0', 'b1']);
    const under = await load(['a', 'b'], {mixStrategy: 'interleave_under'});
    expect(answersOf(under)).toEqual(['a0', 'b0', 'a1', 'b1']);
    const over = await load(['a', 'b'], {mixStrategy: 'interleave_over'});
    expect(answersOf(over)).toEqual(['a0', 'b0', 'a1', 'b1', 'a2', 'b0']);
    const once = await load(['a', 'b'], {mixStrategy: 'interleave_once', interleaveProbs: [0.5, 0.5]});
    expect(answersOf(once).sort()).toEqual(['a0', 'a1', 'a2', 'b0', 'b1']);
  });

  test('a number of samples from each', async () => {
    expect(answersOf(await load('a,b', {maxSamples: 1}))).toEqual(['a0', 'b0']);
    const few = answersOf(await load('few'));
    expect(new Set(few).size).toBe(2);
    expect(answersOf(await load('few', {seed: 42}))).toEqual(few);
    const many = answersOf(await load('many'));
    expect(many).toHaveLength(7);
    expect(new Set(many).size).toBe(3); // every record at least once
  });

  test('a validation part, the same in prediction', async () => {
    const args = {dataset: 'a,b', datasetDir: folder, template: 'llama3', tokenizer};
    const {train, validation} = await loadSplits({...args, valSize: 0.4, streaming: false});
    expect([...answersOf(train), ...answersOf(validation)].sort()).toEqual(['a0', 'a1', 'a2', 'b0', 'b1']);
    expect(validation).toHaveLength(2);
    const prompts = await loadPrompts({...args, valSize: 0.4});
    expect(prompts.map(({label}) => label)).toEqual(answersOf(validation));
    const given = await loadSplits({...args, dataset: 'a', evaluationDataset: 'b', streaming: false});
    expect([answersOf(given.train), answersOf(given.validation)]).toEqual([
      ['a0', 'a1', 'a2'],
      ['b0', 'b1'],
    ]);
    await expect(loadSplits({...args, evaluationDataset: 'b', valSize: 1.5})).rejects.toThrow(
      'dataset valSize: expected either valSize or evaluationDataset, got 1.5 and b',
    );
    expect((await loadSplits({...args, valSize: 1})).validation).toHaveLength(1);
    for (const valSize of [5, -0.1]) {
      await expect(loadSplits({...args, valSize})).rejects.toThrow(
        `valSize: expected a fraction below 1, or a count below 5, the number of examples, got ${valSize}`,
      );
    }
  });
});

describe('streams', () => {
  const read = async (stream: AsyncIterable<Example>) => {
    const examples: Example[] = [];
    for await (const example of stream) examples.push(example);
    return answersOf(examples);
  };

  test('have the same order for the same epoch, another for the next, and every record once', async () => {
    write(
      {x: {file_name: 'x.jsonl'}},
      {
        'x.jsonl': records(120)
          .map((each) => JSON.stringify(each))
          .join('\n'),
      },
    );
    const args = {dataset: 'x', datasetDir: folder, template: 'llama3', tokenizer, bufferSize: 16};
    const stream = await loadDataset({...args, streaming: true});
    const first = await read(stream(0));
    expect([...first].sort()).toEqual(
      records(120)
        .map(({output}) => output)
        .sort(),
    );
    expect(await read(stream())).toEqual(first);
    const second = await read(stream(1));
    expect(second).not.toEqual(first);
    expect([...second].sort()).toEqual([...first].sort());
    const again = await loadDataset({...args, streaming: true});
    expect(await read(again(1))).toEqual(second);
  });

  test('hold the validation part out in every epoch', async () => {
    write({x: {file_name: 'x.json'}}, {'x.json': records(30)});
    const args = {dataset: 'x', datasetDir: folder, template: 'llama3', tokenizer, bufferSize: 8};
    const {train, validation} = await loadSplits({...args, valSize: 5, streaming: true});
    const heldOut = answersOf(validation);
    expect(heldOut).toHaveLength(5);
    if (typeof train !== 'function') throw new Error('expected a stream');
    for (const epoch of [0, 1]) {
      const answers = await read(train(epoch));
      expect(answers).toHaveLength(25);
      expect(answers.filter((answer) => heldOut.includes(answer))).toEqual([]);
    }
    await expect(loadSplits({...args, valSize: 0.1, streaming: true})).rejects.toThrow(
      'dataset valSize: expected a count when streaming, got 0.1',
    );
  });

  test('read no more than needed', async () => {
    const good = records(200).map((each) => JSON.stringify(each));
    const padding = `"${'x'.repeat(1 << 16)}"`; // the fault is beyond the first piece that is read
    const far = Array.from(
      {length: 40},
      (_, i) => `{"instruction": "q", "output": "far${i}", "note": ${padding}}`,
    );
    write({x: {file_name: 'x.jsonl'}}, {'x.jsonl': [...good, ...far, 'not JSON'].join('\n')});
    const args = {dataset: 'x', datasetDir: folder, template: 'llama3', tokenizer, bufferSize: 4};
    const stream = (await loadDataset({...args, cutoffLength: 16, streaming: true}))();
    expect((await stream.next()).value?.inputIds).toBeDefined();
    await stream.return();
    await expect(
      (async () => {
        for await (const _ of (await loadDataset({...args, cutoffLength: 16, streaming: true}))());
      })(),
    ).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringContaining('record 240 (line 241)'),
    });
  });
});

describe('the cache', () => {
  test('keeps token ids by content and settings', async () => {
    write({x: {file_name: 'x.json'}}, {'x.json': records(5)});
    const cacheDir = join(folder, 'cache');
    const files = () => (existsSync(cacheDir) ? readdirSync(cacheDir).sort() : []);
    const fresh = await load('x');
    expect(files()).toEqual([]);
    expect(await load('x', {cacheDir})).toEqual(fresh);
    const [file] = files();
    expect(file).toMatch(/^tokenized-[0-9a-f]{40}\.safetensors$/);

    // Other contents in the cache show whether it is read.
    await load('x', {cacheDir, template: 'default'});
    const [other] = files().filter((name) => name !== file);
    writeFileSync(join(cacheDir, file), readFileSync(join(cacheDir, other)));
    const swapped = await load('x', {cacheDir});
    expect(swapped).toEqual(await load('x', {template: 'default'}));
    expect(await load('x', {cacheDir, overwriteCache: true})).toEqual(fresh);
    expect(await load('x', {cacheDir})).toEqual(fresh);

    const seen = new Set(files());
    for (const change of [
      {cutoffLength: 30},
      {trainOnPrompt: true},
      {maskHistory: true},
      {defaultSystem: 'S'},
      {maxSamples: 3},
      {template: 'alpaca'},
      {stage: 'pt', cutoffLength: 8},
    ] as const) {
      await load('x', {cacheDir, cutoffLength: 20, ...change});
      expect([change, files().length]).toEqual([change, seen.size + 1]);
      for (const name of files()) seen.add(name);
    }
    write({x: {file_name: 'x.json'}}, {'x.json': [...records(4), {instruction: 'q', output: 'new'}]});
    expect(answersOf(await load('x', {cacheDir}))).toEqual(['0', '1', '2', '3', 'new']);
  });

  test('a damaged file is made again', async () => {
    write({x: {file_name: 'x.json'}}, {'x.json': records(5)});
    const cacheDir = join(folder, 'cache');
    const fresh = await load('x', {cacheDir});
    const [file] = readdirSync(cacheDir);
    const whole = readFileSync(join(cacheDir, file));
    writeFileSync(join(cacheDir, file), whole.subarray(0, whole.length - 7));
    expect(await load('x', {cacheDir})).toEqual(fresh);
    expect(warnings).toEqual([expect.stringMatching(/^tokenized data .*: .*The data is tokenized again\.$/)]);
    expect(readFileSync(join(cacheDir, file))).toEqual(whole);
  });
});

test('progress reports the tokenized records', async () => {
  write({x: {file_name: 'x.json'}}, {'x.json': records(120)});
  const progress: unknown[] = [];
  await load('x', {onProgress: (each) => progress.push(each)});
  expect(progress).toEqual(
    [50, 100, 120].map((done) => ({phase: 'tokenizing', what: 'x', done, total: 120})),
  );
});

describe('files that the peers read', () => {
  test('empty cells of a CSV are neither answers nor questions', async () => {
    const rows = ['"q, with ""quotes""",,"two\nlines"', 'q2,NA,null', 'q3,i3,', 'q4,n/a,a "b" c'];
    write({x: {file_name: 'x.csv'}}, {'x.csv': ['instruction,input,output', ...rows].join('\n')});
    const examples = await load('x', {template: 'empty'});
    expect(textsOf(examples)).toEqual(['q, with "quotes"two\nlines', 'q4a "b" c']);
    expect(warnings.at(-1)).toContain('skipped 2 of 4 records. The first: ');
    expect(warnings.at(-1)).toContain('x.csv record 1 (line 4): expected an answer to learn, got none.');
  });

  test('a byte order mark before dataset_info.json, NaN for no text, and .json beside .jsonl', async () => {
    write('\ufeff{"x": {"file_name": "parts"}}');
    mkdirSync(join(folder, 'parts'));
    writeFileSync(join(folder, 'parts/a.json'), '[{"instruction": "q", "input": NaN, "output": "a0"}]');
    writeFileSync(join(folder, 'parts/b.jsonl'), '[{"instruction": "q", "output": "a1"}]');
    expect(answersOf(await load('x'))).toEqual(['a0', 'a1']);
  });

  test('a text that is not UTF-8 is an error, in dataset_info.json too', async () => {
    writeFileSync(join(folder, 'dataset_info.json'), Buffer.from('{"é": {}}', 'latin1'));
    await expect(load('x')).rejects.toThrow('dataset_info.json byte 2: expected UTF-8 text, got 0xe9.');
  });

  test('a wrong tool list is named with the default template too', async () => {
    const tools = 'get_weather(city)';
    write(
      {x: {file_name: 'x.json', columns: {prompt: 'instruction', response: 'output', tools: 'tools'}}},
      {'x.json': [{instruction: 'a', output: 'b', tools}]},
    );
    await expect(load('x', {template: undefined})).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringContaining(`record 0 (line 1) column 'tools' (tools): expected JSON text`),
    });
  });
});

describe('mistakes', () => {
  const alpaca = {'x.json': records(2)};

  test.each<[string, DatasetInfo | string, Record<string, unknown>, string, string]>([
    [
      'no such data set',
      {y: {file_name: 'x.json'}, xy: {}},
      alpaca,
      'INVALID_CONFIG',
      "expected an entry 'x', got 2 others. Nearest: xy, y.",
    ],
    [
      'no file',
      {x: {file_name: 'y.json'}},
      alpaca,
      'FILE_NOT_FOUND',
      'dataset x file_name: expected a file or folder, got nothing at ',
    ],
    [
      'a wrong kind',
      {x: {file_name: 'dataset_info.json.bak'}},
      {'dataset_info.json.bak': ''},
      'UNSUPPORTED',
      'got .bak',
    ],
    [
      'neither file nor hub',
      {x: {script_url: 'x.py'}},
      alpaca,
      'INVALID_CONFIG',
      'x: expected file_name or hf_hub_url, got script_url.',
    ],
    [
      'a wrong format',
      {x: {file_name: 'x.json', formatting: 'alpacca' as 'alpaca'}},
      alpaca,
      'INVALID_CONFIG',
      'x formatting: expected alpaca, sharegpt, openai, got "alpacca". Nearest: alpaca.',
    ],
    [
      'a wrong column name',
      {x: {file_name: 'x.json', columns: {promt: 'a'} as object}},
      alpaca,
      'INVALID_CONFIG',
      "x columns promt: expected one of prompt, query, response, history, messages, system, tools, chosen, rejected, kto_tag, images, videos, audios, got 'promt'. Nearest: prompt.",
    ],
    [
      "a column's usual name",
      {x: {file_name: 'x.json', columns: {instruction: 'a'} as object}},
      alpaca,
      'INVALID_CONFIG',
      "got 'instruction'. Nearest: prompt.",
    ],
    [
      'columns the other way round',
      {x: {file_name: 'x.json', columns: {question: 'prompt'} as object}},
      alpaca,
      'INVALID_CONFIG',
      'got \'question\'. Write it the other way round: {"prompt": "question"}.',
    ],
    [
      'a wrong tag name',
      {x: {file_name: 'x.json', tags: {role: 'a'} as object}},
      alpaca,
      'INVALID_CONFIG',
      'x tags role: expected one of role_tag,',
    ],
    [
      'images',
      {x: {file_name: 'x.json', columns: {images: 'image'} as object}},
      alpaca,
      'UNSUPPORTED',
      'x columns images: expected columns of text',
    ],
    [
      'pairs without their columns',
      {x: {file_name: 'x.json', ranking: true}},
      alpaca,
      'INVALID_CONFIG',
      'x columns chosen: expected a column, because ranking is true, got undefined',
    ],
    [
      'pairs where single answers are learned',
      {x: {file_name: 'x.json', ranking: true, columns: {chosen: 'output', rejected: 'input'}}},
      alpaca,
      'INVALID_CONFIG',
      'dataset x: expected stage dpo or rm, got sft. Pairs of a chosen and a rejected answer and stages dpo and rm belong together.',
    ],
    [
      'verdicts where single answers are learned',
      {x: {file_name: 'x.json', columns: {prompt: 'instruction', response: 'output', kto_tag: 'input'}}},
      alpaca,
      'INVALID_CONFIG',
      'dataset x: expected stage kto, got sft. Answers with a verdict and stage kto belong together.',
    ],
    [
      'num_samples',
      {x: {file_name: 'x.json', num_samples: 0.5}},
      alpaca,
      'INVALID_CONFIG',
      'x num_samples: expected a positive integer, got 0.5.',
    ],
    [
      'a split of a single file',
      {x: {file_name: 'x.json', split: 'test'}},
      alpaca,
      'INVALID_CONFIG',
      "dataset x split: expected 'train', the one split of a file, got 'test'.",
    ],
    [
      'invalid JSON',
      '{',
      alpaca,
      'CORRUPT_FILE',
      'dataset_info.json: expected a JSON object of data sets by name, got: ',
    ],
    ['a list', '[]', alpaca, 'CORRUPT_FILE', 'got: a list'],
    [
      'a missing prompt column',
      {x: {file_name: 'x.json'}},
      {'x.json': [{instructions: 'a', output: 'b'}]},
      'CORRUPT_FILE',
      "record 0 (line 1) column 'instruction' (prompt): expected it, got columns instructions, output. Nearest: instructions. Name it under columns prompt of x in dataset_info.json.",
    ],
    [
      'a named column that no record has',
      {x: {file_name: 'x.json', columns: {prompt: 'instruction', response: 'outptu'}}},
      alpaca,
      'CORRUPT_FILE',
      "dataset x columns: expected a column 'outptu' in some record, got instruction, output.",
    ],
    [
      'a number for text',
      {x: {file_name: 'x.json'}},
      {'x.json': [{instruction: 'a', output: 5}]},
      'CORRUPT_FILE',
      "record 0 (line 1) column 'output' (response): expected text, got 5.",
    ],
    [
      'history',
      {x: {file_name: 'x.json', columns: {prompt: 'instruction', response: 'output', history: 'h'}}},
      {'x.json': [{instruction: 'a', output: 'b', h: [['q']]}]},
      'CORRUPT_FILE',
      'column \'h\' (history): expected [question, answer] in entry 0, got ["q"].',
    ],
    [
      'no messages',
      {x: {file_name: 'x.json', formatting: 'sharegpt'}},
      {'x.json': [{messages: []}]},
      'CORRUPT_FILE',
      "column 'conversations' (messages): expected it, got columns messages. Nearest: messages.",
    ],
    [
      'messages that are not a list',
      {x: {file_name: 'x.json', formatting: 'sharegpt'}},
      {'x.json': [{conversations: 'hi'}]},
      'CORRUPT_FILE',
      'column \'conversations\' (messages): expected a list, got "hi".',
    ],
    [
      'other tags',
      {x: {file_name: 'x.json', formatting: 'sharegpt'}},
      {'x.json': [{conversations: [{role: 'user', content: 'a'}]}]},
      'CORRUPT_FILE',
      'expected text under \'from\' (tags role_tag) in turn 0, got ["role", "content"]. Add "tags": {"role_tag": "role", ',
    ],
    [
      'cells between semicolons',
      {x: {file_name: 'x.csv', columns: {prompt: 'question', response: 'answer'}}},
      {'x.csv': 'question;answer\nWho?;Ada\n'},
      'CORRUPT_FILE',
      'got columns question;answer. The file separates cells by semicolons: save it with commas, or with tabs as .tsv.',
    ],
    [
      'messages without a format',
      {x: {file_name: 'x.json'}},
      {'x.json': [{messages: [{role: 'user', content: 'a'}]}]},
      'CORRUPT_FILE',
      'For messages, write "formatting": "openai", "columns": {"messages": "messages"}, "tags": {"role_tag": "role", ',
    ],
    [
      'turns without a format',
      {x: {file_name: 'x.json'}},
      {'x.json': [{conversations: [{from: 'human', value: 'a'}]}]},
      'CORRUPT_FILE',
      'Write "formatting": "sharegpt" for x in dataset_info.json.',
    ],
    [
      'records under a key',
      {x: {file_name: 'x.json'}},
      {'x.json': {data: [{instruction: 'a', output: 'b'}]}},
      'CORRUPT_FILE',
      "got columns data. If the records are the list under 'data', save that list alone.",
    ],
    [
      'a spreadsheet',
      {x: {file_name: 'x.xlsx'}},
      {'x.xlsx': 'PK'},
      'UNSUPPORTED',
      'txt, parquet file, got .xlsx. Save the spreadsheet as csv.',
    ],
    [
      'not a conversation',
      {x: {file_name: 'x.json', formatting: 'sharegpt'}},
      {'x.json': [{conversations: [{from: 'user', value: 'a'}]}]},
      'CORRUPT_FILE',
      'dataset x: expected examples to learn from, got none out of 1 record. The first:',
    ],
    [
      'an empty file',
      {x: {file_name: 'x.json'}},
      {'x.json': []},
      'CORRUPT_FILE',
      'dataset x: expected examples to learn from, got none out of 0 records.',
    ],
    [
      'tools that are not JSON',
      {x: {file_name: 'x.json', columns: {prompt: 'instruction', response: 'output', tools: 't'}}},
      {'x.json': [{instruction: 'a', output: 'b', t: 'wrench'}]},
      'CORRUPT_FILE',
      `record 0 (line 1) column 't' (tools): expected JSON text or a list of tools, got "wrench". tools: expected JSON`,
    ],
    [
      'tools that are not a list',
      {x: {file_name: 'x.json', columns: {prompt: 'instruction', response: 'output', tools: 't'}}},
      {'x.json': [{instruction: 'a', output: 'b', t: {name: 'f'}}]},
      'CORRUPT_FILE',
      `column 't' (tools): expected JSON text or a list of tools, got {"name": "f"}.`,
    ],
    [
      'far too many samples',
      {x: {file_name: 'x.json', num_samples: 1e15}},
      {'x.json': [{instruction: 'a', output: 'b'}]},
      'INVALID_CONFIG',
      'dataset x num_samples: expected at most 1000 times the number of records (1), got 1000000000000000.',
    ],
  ])('%s', async (_, info, files, code, message) => {
    write(info, files);
    await expect(load('x')).rejects.toMatchObject({code, message: expect.stringContaining(message)});
  });

  test('a file instead of a name, or no tokenizer', async () => {
    await expect(load('sets/x.csv')).rejects.toThrow('Write one ({"x": {"file_name": "sets/x.csv"}})');
    write({y: {file_name: 'x.json'}}, alpaca);
    const file = join(folder, 'dataset_info.json');
    await expect(load('y', {datasetDir: file})).rejects.toThrow(`The data folder is ${folder}.`);
    await expect(load('sets/x.csv')).rejects.toThrow(
      'got 1 other. Name an entry instead of a file, such as {"x": {"file_name": "sets/x.csv"}}.',
    );
    await expect(load(`${folder}/x.csv`)).rejects.toThrow('such as {"x": {"file_name": "x.csv"}}.');
    for (const none of [undefined, null]) {
      await expect(load('y', {tokenizer: none as never})).rejects.toThrow(
        `dataset tokenizer: expected a Tokenizer, got ${none}. Pass the model's: model.tokenizer.`,
      );
    }
  });

  test('no dataset_info.json', async () => {
    await expect(load('x')).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining(
        `${resolve(folder, 'dataset_info.json')}: expected the file that describes`,
      ),
    });
  });

  test('an unknown key of dataset_info.json causes a warning', async () => {
    write({x: {file_name: 'x.json', formating: 'sharegpt'}}, alpaca);
    await load('x');
    expect(warnings).toEqual([
      `${join(folder, 'dataset_info.json')} x formating: unknown key, ignored. Nearest: formatting.`,
    ]);
  });

  test.each<[Partial<DatasetArgs>, string]>([
    [{dataset: ' , '}, 'dataset dataset: expected the name of a data set, got " , ".'],
    [{template: 'lama3'}, "or model for the tokenizer's own, got 'lama3'. Nearest: llama3."],
    [{stage: 'ppo' as 'sft'}, 'dataset stage: expected sft, pt, dpo, rm, kto, got "ppo".'],
    [
      {stage: 'dpo', packing: true},
      'dataset packing: expected false with stage dpo, whose examples are not packed, got true.',
    ],
    [{cutoffLength: 0}, 'dataset cutoffLength: expected a positive integer, got 0.'],
    [{maxSamples: 1.5}, 'dataset maxSamples: expected a positive integer, got 1.5.'],
    [{seed: -1}, 'dataset seed: expected an integer of 0 or more, got -1.'],
    [{workers: 0.5}, 'dataset workers: expected an integer of 0 or more, got 0.5.'],
    [
      {mixStrategy: 'interleave' as 'concat'},
      "dataset mixStrategy: expected one of concat, interleave_under, interleave_over, interleave_once, got 'interleave'.",
    ],
    [
      {interleaveProbs: [1]},
      "dataset interleaveProbs: expected a mixStrategy that interleaves, got 'concat'.",
    ],
    [
      {mixStrategy: 'interleave_over', interleaveProbs: [0.5, 0.5]},
      'dataset interleaveProbs: expected 1 probabilities, one for each data set, got 2.',
    ],
    [
      {dataset: 'x,x', mixStrategy: 'interleave_over', interleaveProbs: [0.5, 0.6]},
      'expected probabilities above 0 whose sum is 1, got 0.5, 0.6.',
    ],
    [{streaming: true, maxSamples: 3}, 'dataset maxSamples: expected none when streaming, got 3.'],
    [
      {maskHistory: true, trainOnPrompt: true},
      'dataset maskHistory: expected either maskHistory or trainOnPrompt, got both.',
    ],
  ])('%j', async (args, message) => {
    write({x: {file_name: 'x.json'}}, alpaca);
    await expect(
      loadDataset({dataset: 'x', datasetDir: folder, template: 'llama3', tokenizer, ...args}),
    ).rejects.toMatchObject({code: 'INVALID_ARGUMENT', message: expect.stringContaining(message)});
  });
});

const DATA = resolve(__dirname, '../../..', process.env.TFJS_LORA_DATA ?? '../shared/data', 'scitldr');
const testWithData = existsSync(join(DATA, 'dataset_info.json')) ? test : test.skip;

testWithData('real data: scitldr', async () => {
  const args = {dataset: 'scitldr_dev', datasetDir: DATA, template: 'llama3', tokenizer, cutoffLength: 512};
  const examples = await loadDataset({...args, streaming: false});
  expect(examples).toHaveLength(619);
  expect(Math.max(...examples.map(({inputIds}) => inputIds.length))).toBeLessThanOrEqual(512);
  const [first] = JSON.parse(readFileSync(join(DATA, 'dev.json'), 'utf8'));
  expect(answersOf(examples.slice(0, 1))).toEqual([first.output]);
});

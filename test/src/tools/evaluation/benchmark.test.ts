import {mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {Llama, useBackend} from '../../../../src/index.ts';
import {formatBenchmark, loadBenchmark, scoreBenchmark} from '../../../../src/tools/evaluation/index.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {inFolder} from '../../../models/tinyLlama.ts';
import {zipOf} from '../../data/zipOf.ts';
import {runCommandLine} from '../cli/runCommandLine.ts';

interface Case {
  args: {
    task: string;
    lang: 'en' | 'zh';
    n_shot: number;
    template: string;
    batch_size?: number;
    seed?: number;
  };
  results_json: string;
  results_log: string;
  prompts: [first: string, last: string];
}
const MODEL = join(__dirname, '../../../../examples/quickstart/model');
const {files, cases}: {files: Record<string, Record<string, string>>; cases: Case[]} = JSON.parse(
  readFileSync(join(__dirname, 'fixtures/benchmarks.json'), 'utf8'),
);

/** Writes the benchmarks as archives, or unpacked. */
function writeBenchmarks(taskDir: string, isPacked: boolean): void {
  for (const [name, members] of Object.entries(files)) {
    const {'mapping.json': mapping, ...tables} = members;
    const write = (path: string, data: string | Buffer) => {
      mkdirSync(dirname(join(taskDir, name, path)), {recursive: true});
      writeFileSync(join(taskDir, name, path), data);
    };
    write('mapping.json', mapping);
    const entries = Object.entries(tables);
    if (isPacked) write(`${name}.zip`, zipOf(entries.map(([path, text]) => ({name: path, text}))));
    else for (const [path, text] of entries) write(path, text);
  }
}

let model: Llama;
beforeAll(async () => {
  await useBackend('wasm');
  model = await Llama.fromPretrained(MODEL);
});
afterAll(() => model.dispose());

test.each(cases)('scores, answers and prompts are LLaMA-Factory’s: $args', ({args, ...expected}) =>
  inFolder(async (folder) => {
    writeBenchmarks(folder, args.lang === 'en');
    const forward = model.forward.bind(model);
    const seen: number[][] = [];
    const spy = jest.spyOn(model, 'forward').mockImplementation((ids, options) => {
      const lengths = options?.attentionMask?.sum(1).dataSync();
      for (const [row, own] of ids.arraySync().entries())
        seen.push(own.slice(0, lengths?.[row] ?? own.length));
      return forward(ids, options);
    });
    const {scores} = await scoreBenchmark(model, await loadBenchmark(args.task, folder), {
      shots: args.n_shot,
      language: args.lang,
      template: args.template,
      batchSize: args.batch_size,
      seed: args.seed,
      outputDir: join(folder, 'new/saved'),
    });
    spy.mockRestore();
    const [first, last] = [seen[0], seen.at(-1)!].map((ids) => model.tokenizer!.decode(ids));
    expect([first, last]).toEqual(expected.prompts);
    expect(readFileSync(join(folder, 'new/saved/results.json'), 'utf8')).toBe(expected.results_json);
    expect(readFileSync(join(folder, 'new/saved/results.log'), 'utf8')).toBe(expected.results_log);
    expect(formatBenchmark(scores)).toBe(expected.results_log);
  }),
);

test('reports its progress, stops by the signal, and keeps no tensors', () =>
  inFolder(async (folder) => {
    writeBenchmarks(folder, true);
    const subjects = await loadBenchmark('mmlu_validation', folder);
    const seen: unknown[] = [];
    await expectNoLeak(async () => void (await scoreBenchmark(model, subjects, {shots: 0})));
    await scoreBenchmark(model, subjects, {shots: 0, onProgress: (progress) => seen.push(progress)});
    expect(seen).toEqual([
      {done: 0, total: 8, subject: 'law'},
      {done: 4, total: 8, subject: 'law'},
      {done: 8, total: 8, subject: 'logic'},
    ]);
    const controller = new AbortController();
    const stopped = scoreBenchmark(model, subjects, {
      shots: 0,
      signal: controller.signal,
      onProgress: ({done}) => done > 0 && controller.abort(new Error('enough')),
    });
    await expect(stopped).rejects.toThrow('enough');
  }));

test('what is missing or wrong is named', () =>
  inFolder(async (folder) => {
    await expect(loadBenchmark('cmmlu_validation', folder)).rejects.toThrow(
      /benchmark task: expected mmlu_test, .* got "cmmlu_validation"/,
    );
    await expect(loadBenchmark('mmlu_test', folder)).rejects.toThrow(
      /^benchmark mmlu_test: expected mapping\.json and mmlu\.zip in .*, got none\. .* name another with task_dir\.$/,
    );
    writeBenchmarks(folder, false);
    writeFileSync(join(folder, 'cmmlu/test/arts.csv'), ',Question,A,B,C,Answer\n0,Which?,a,b,c,A\n');
    await expect(loadBenchmark('cmmlu_test', folder)).rejects.toThrow(/arts\.csv: expected a column D, got/);
    writeFileSync(join(folder, 'mmlu/data/val/law_val.csv'), 'Which?,a,b,c,d,A\nWhat?,a\n');
    await expect(loadBenchmark('mmlu_validation', folder)).rejects.toThrow(
      /law_val\.csv line 2: expected 6 cells, got 2/,
    );
    writeFileSync(join(folder, 'ceval/mapping.json'), '{"law": {"name": "law", "category": "Law"}}');
    await expect(loadBenchmark('ceval_test', folder)).rejects.toThrow(
      /expected a name and a category \(STEM/,
    );
    const subjects = await loadBenchmark('mmlu_test', folder);
    const options = {shots: 5, template: 'llama3', outputDir: folder};
    await expect(scoreBenchmark(model, subjects, options)).rejects.toThrow(
      /outputDir: expected a folder that does not exist yet, got/,
    );
    expect(readdirSync(folder)).not.toContain('results.json');
  }));

test('eval runs the task of a recipe', () =>
  inFolder(async (folder) => {
    writeBenchmarks(folder, true);
    const {args, results_log} = cases[0];
    const given = Object.entries({...args, task_dir: folder, save_dir: join(folder, 'saved')});
    const keys = given.map(([key, value]) => `${key}=${value}`);
    const {status, out} = await runCommandLine('--backend', 'wasm', 'eval', MODEL, ...keys);
    expect([status, out]).toEqual([0, expect.stringContaining(results_log)]);
    expect(readdirSync(join(folder, 'saved')).sort()).toEqual(['results.json', 'results.log']);
    const again = await runCommandLine('--backend', 'wasm', 'eval', MODEL, ...keys);
    expect(again).toMatchObject({
      status: 2,
      err: expect.stringContaining('expected a folder that does not exist yet'),
    });
  }));

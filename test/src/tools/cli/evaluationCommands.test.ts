import {once} from 'node:events';
import {cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {type AddressInfo, createServer} from 'node:net';
import {join} from 'node:path';
import OpenAI from 'openai';
import {billRecords} from '../../../../examples/quickstart/billGenerator.ts';
import type {LlamaForCausalLM} from '../../../../models/llama/llama.ts';
import {Llama, useBackend} from '../../../../src/index.ts';
import {runCli} from '../../../../src/tools/cli/runCli.ts';
import {inFolder, stirAdapter} from '../../../models/tinyLlama.ts';
import {runCommandLine} from './runCommandLine.ts';

/* eval and serve as a user calls them, on the model of the quickstart. What they are made of has tests of its own. */

const MODEL = join(__dirname, '../../../../examples/quickstart/model');
const wasm = (...args: string[]) => runCommandLine('--backend', 'wasm', ...args);

/** Writes a recipe with three bills, and an adapter for its model. */
async function makeRecipe(folder: string): Promise<{recipe: string; adapter: string}> {
  writeFileSync(join(folder, 'bills.json'), JSON.stringify(billRecords('heldOut', 3)));
  writeFileSync(join(folder, 'dataset_info.json'), JSON.stringify({bills: {file_name: 'bills.json'}}));
  const recipe = join(folder, 'recipe.yaml');
  const keys = {
    model_name_or_path: MODEL,
    template: 'llama3',
    eval_dataset: 'bills',
    dataset_dir: folder,
    output_dir: join(folder, 'out'),
    max_new_tokens: 6,
    do_sample: false,
  };
  writeFileSync(recipe, JSON.stringify(keys));
  await useBackend('wasm');
  const model = await Llama.fromPretrained(MODEL);
  model.applyLoRA({rank: 2});
  stirAdapter(model as LlamaForCausalLM);
  const adapter = join(folder, 'stirred');
  await model.saveAdapter(adapter);
  model.dispose();
  return {recipe, adapter};
}

test('eval scores a model and its adapter; --compare puts them side by side', () =>
  inFolder(async (folder) => {
    const {recipe, adapter} = await makeRecipe(folder);
    const alone = await wasm('eval', recipe);
    expect(alone).toMatchObject({status: 0, err: expect.stringContaining('3 of 3 prompts')});
    expect(alone.err).toContain(`scoring ${MODEL}, without an adapter\n`);
    expect(alone.out).toMatch(/without an adapter\n\n +LLaMA-Factory +standard\nBLEU-4 +\d/);
    expect(alone.out).toMatch(/^loss \d+\.\d{4}, perplexity \d+\.\d{4}$/m);
    const out = (name: string) => readFileSync(join(folder, 'out', name), 'utf8');
    expect(out('generated_predictions.jsonl').trim().split('\n')).toHaveLength(3);
    const results = JSON.parse(out('all_results.json'));
    expect(Object.keys(results)).toEqual(
      expect.arrayContaining(['eval_loss', 'predict_bleu-4', 'predict_sacrebleu']),
    );

    const adapted = await wasm(
      'eval',
      recipe,
      `adapter_name_or_path=${adapter}`,
      'output_dir=null',
      '--json',
    );
    const {model, perplexity, ...metrics} = JSON.parse(adapted.out);
    expect(model).toBe(`${MODEL} with adapter ${adapter}`);

    const plot = join(folder, 'plot.svg');
    const compared = await wasm(
      'eval',
      recipe,
      '--compare',
      'base',
      adapter,
      `nf4:${adapter}`,
      '--plot',
      plot,
    );
    expect(compared.status).toBe(0);
    expect(compared.out).toContain(out('comparison.md').trim());
    expect(readFileSync(plot, 'utf8')).toContain('QLoRA (nf4): stirred');
    const [base, lora, qlora] = JSON.parse(out('comparison.json'));
    expect(base.scores.llamaFactory['bleu-4']).toBe(results['predict_bleu-4']);
    expect(lora.scores.llamaFactory['bleu-4']).toBe(metrics['predict_bleu-4']);
    expect(lora.perplexity).toBeCloseTo(perplexity, 6);
    expect(lora.perplexity).not.toBeCloseTo(base.perplexity, 2);
    expect(qlora.peakBytes).toBeLessThan(lora.peakBytes);
    expect(out('comparison-2/generated_predictions.jsonl')).not.toBe(out('generated_predictions.jsonl'));
  }));

test('--compare leaves the overrides after it to the recipe, and keeps labels', () =>
  inFolder(async (folder) => {
    const {recipe, adapter} = await makeRecipe(folder);
    const out = join(folder, 'elsewhere');
    mkdirSync(out); // an existing folder must not be read as a label's folder
    const candidates = ['--compare', 'base', `tuned=${adapter}`];
    const {status, err} = await wasm('eval', recipe, ...candidates, 'max_new_tokens=2', `output_dir=${out}`);
    expect([status, err]).toEqual([0, expect.stringContaining('tuned: 3 of 3 prompts')]);
    const comparisons = JSON.parse(readFileSync(join(out, 'comparison.json'), 'utf8'));
    expect(comparisons.map(({label}: {label: string}) => label)).toEqual(['Before fine-tuning', 'tuned']);
    for (const {newTokens} of comparisons) expect(newTokens).toBeLessThanOrEqual(6); // three answers of two tokens
    expect(existsSync(join(folder, 'out'))).toBe(false);
  }));

test('results of another model are not overwritten', () =>
  inFolder(async (folder) => {
    const {recipe, adapter} = await makeRecipe(folder);
    const out = join(folder, 'out');
    const results = () => readFileSync(join(out, 'all_results.json'), 'utf8');
    const base = () => wasm('eval', recipe, 'max_new_tokens=1');
    expect(await base()).toMatchObject({status: 0});
    expect(await base()).toMatchObject({status: 0}); // its own results may be
    const before = results();
    const predicts = ['do_predict=true', 'predict_with_generate=true'];
    for (const args of [
      ['eval', recipe, `adapter_name_or_path=${adapter}`],
      ['eval', recipe, 'quantization_bit=4'],
      ['train', recipe, `adapter_name_or_path=${adapter}`, ...predicts],
    ]) {
      const {status, err} = await wasm(...args);
      expect([status, err]).toEqual([
        2,
        expect.stringContaining(`got ${out}, which holds those of another model: {`),
      ]);
    }
    expect(results()).toBe(before);
    expect(await wasm('train', recipe, 'max_new_tokens=1', ...predicts)).toMatchObject({status: 0});

    rmSync(join(out, 'scored_model.json'));
    expect(await base()).toMatchObject({
      status: 2,
      err: expect.stringContaining('results without a scored_model.json that names their model'),
    });
  }));

describe('eval of a recipe that trains', () => {
  /** Runs the recipe, so that output_dir has the adapter and its results. */
  async function makeTrained(folder: string) {
    const {recipe, adapter} = await makeRecipe(folder);
    const trained = join(folder, 'run');
    cpSync(adapter, trained, {recursive: true});
    writeFileSync(join(trained, 'trainer_state.json'), '{}');
    for (const name of ['eval', 'all'])
      writeFileSync(join(trained, `${name}_results.json`), '{"eval_loss": 0}');
    const evalLoss = () => JSON.parse(readFileSync(join(trained, 'all_results.json'), 'utf8')).eval_loss;
    return {
      recipe,
      adapter,
      trained,
      evalLoss,
      train: ['do_train=true', 'dataset=bills', `output_dir=${trained}`],
    };
  }

  test('scores the trained adapter, and says so', () =>
    inFolder(async (folder) => {
      const {recipe, adapter, trained, train, evalLoss} = await makeTrained(folder);
      const {status, out} = await wasm('eval', recipe, ...train);
      expect([status, out]).toEqual([0, expect.stringContaining(`${MODEL} with adapter ${trained}\n`)]);
      const named = await wasm(
        'eval',
        recipe,
        `adapter_name_or_path=${adapter}`,
        'output_dir=null',
        '--json',
      );
      expect(evalLoss()).toBeCloseTo(JSON.parse(named.out).loss, 6);
    }));

  test.each([[[]], [['--compare', 'base']]])('writes nothing with output_dir=null %s', (before) =>
    inFolder(async (folder) => {
      const {recipe, adapter, trained, train, evalLoss} = await makeTrained(folder);
      const args = [...train, `adapter_name_or_path=${adapter}`, 'max_new_tokens=1'];
      const {status, out, err} = await wasm('eval', recipe, ...args, ...before, 'output_dir=null');
      expect([status, err]).toEqual([0, expect.stringContaining('3 of 3 prompts')]);
      expect(out).not.toContain('output');
      expect(evalLoss()).toBe(0);
      expect(existsSync(join(trained, 'generated_predictions.jsonl'))).toBe(false);
    }),
  );

  test('is refused before the training is finished', () =>
    inFolder(async (folder) => {
      const {recipe, trained, train} = await makeTrained(folder);
      const output = join(folder, 'none');
      const missing = await wasm('eval', recipe, ...train, `output_dir=${output}`);
      expect(missing.status).toBe(2);
      expect(missing.err).toContain(`expected the adapter that this recipe trains in ${output}, got none`);
      mkdirSync(join(output, 'checkpoint-3'), {recursive: true});
      mkdirSync(join(trained, 'checkpoint-3'), {recursive: true});
      for (const run of [output, trained]) {
        const begun = await wasm('eval', recipe, ...train, `output_dir=${run}`);
        expect(begun.err).toContain('got checkpoints of an unfinished run');
      }
      const checkpoint = join(output, 'checkpoint-3');
      writeFileSync(join(checkpoint, 'adapter_config.json'), '{}');
      const merge = [`adapter_name_or_path=${output}`, `export_dir=${join(folder, 'merged')}`];
      for (const args of [
        ['eval', recipe, ...train, `output_dir=${output}`],
        ['export', recipe, ...merge],
      ]) {
        const {status, err} = await wasm(...args);
        expect(status).toBe(2);
        expect(err).toContain('got checkpoints of an unfinished run');
        expect(err).toContain(`adapter_name_or_path=${checkpoint}`);
      }
    }));

  test("keeps another model's results out of its folder", () =>
    inFolder(async (folder) => {
      const {recipe, adapter, trained, train, evalLoss} = await makeTrained(folder);
      for (const args of [
        ['eval', recipe, ...train, 'do_train=false'],
        ['eval', recipe, ...train, `adapter_name_or_path=${adapter}`],
        ['train', recipe, ...train, 'do_train=false', 'do_eval=true'],
      ]) {
        const {status, err} = await wasm(...args);
        expect([status, err]).toEqual([
          2,
          expect.stringContaining(`got ${trained}, which holds a training's own`),
        ]);
      }
      expect(evalLoss()).toBe(0);
    }));
});

test('a mistake is reported before a model is read', () =>
  inFolder(async (folder) => {
    const {recipe} = await makeRecipe(folder);
    for (const [args, message] of [
      [['eval', MODEL], 'eval_dataset: expected data to evaluate on'],
      [['eval', recipe, 'stage=pt'], 'stage: expected sft'],
      [['eval', recipe, '--compare', 'base', 'nf4:'], '--compare nf4:: expected base or the folder'],
      [['eval', recipe, '--compare', 'base', 'nowhere'], 'nowhere'],
      ...[
        ['train', recipe, 'do_eval=true', 'output_dir=null'],
        ['eval', recipe, 'output_dir=null'],
        ['export', recipe, `export_dir=${join(folder, 'merged')}`],
      ].map((args) => [
        [...args, 'adapter_name_or_path=saves/nosuch'],
        'adapter_name_or_path saves/nosuch: expected the folder of an adapter (adapter_config.json',
      ]),
      [
        ['eval', recipe, '--compare', 'base', 'saves/nosuch'],
        '--compare saves/nosuch: expected the folder of an',
      ],
      [
        ['serve', MODEL, '--adapter', 'saves/nosuch'],
        '--adapter saves/nosuch: expected the folder of an adapter',
      ],
      [['chat', 'no/such/folder/'], 'no/such/folder'],
      [['serve', MODEL, '--port', '99999'], 'Expected a number from 0 to 65535'],
      [['serve', MODEL, 'template=llam3'], 'Nearest: llama3'],
    ] as [string[], string][]) {
      const {status, err} = await wasm(...args);
      expect([args, status, err]).toEqual([args, 2, expect.stringContaining(message)]);
    }
  }));

test('each warning is printed once, although a command opens its files several times', () =>
  inFolder(async (folder) => {
    const {recipe} = await makeRecipe(folder);
    const {status, err} = await wasm('eval', recipe, 'template=chatml', 'max_samples=1', 'max_new_tokens=1');
    expect(status).toBe(0);
    expect(err.match(/will be tokenized as ordinary text/g)).toHaveLength(1);
  }));

test('serve names a port that is in use', async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const {port} = other.address() as AddressInfo;
  const {status, err} = await wasm('serve', MODEL, '--port', `${port}`);
  other.close();
  expect(status).toBe(2);
  expect(err).toContain(`serve --port ${port}: expected a free port, got one that another program uses.`);
});

test('serve answers under the names of base and adapters until a signal ends it', () =>
  inFolder(async (folder) => {
    const {adapter} = await makeRecipe(folder);
    const said: string[] = [];
    const errors = jest.spyOn(console, 'error').mockImplementation(() => {});
    let hear: (line: string) => void = () => {};
    const log = jest.spyOn(console, 'log').mockImplementation((line) => {
      said.push(String(line));
      hear(String(line));
    });
    try {
      const started = new Promise<string>((resolve) => {
        hear = resolve;
      });
      const args = [
        'serve',
        MODEL,
        '--port',
        '0',
        '--model-name',
        'tiny',
        '--adapter',
        adapter,
        `twin=${adapter}`,
        'template=llama3',
      ];
      const ended = runCli(['--backend', 'wasm', ...args, '--api-key', 'k']);
      const [, baseURL] = /^serving tiny, stirred, twin at (http:\/\/127\.0\.0\.1:\d+\/v1)$/.exec(
        await started,
      )!;
      const client = new OpenAI({baseURL, apiKey: 'k', maxRetries: 0});
      const messages = [{role: 'user' as const, content: 'Who pays?'}];
      const ask = async (model: string) => {
        const {choices} = await client.chat.completions.create({
          model,
          messages,
          temperature: 0,
          max_tokens: 5,
        });
        return choices[0].message.content;
      };
      const [base, stirred, twin] = [await ask('tiny'), await ask('stirred'), await ask('twin')];
      expect(twin).toBe(stirred);
      expect(base).not.toBe(stirred);
      expect(errors.mock.calls.map(([line]) => line)).toEqual(
        Array(3).fill(expect.stringMatching(/POST \/v1\/chat\/completions 200 \d+ \+ \d tokens/)),
      );
      process.emit('SIGTERM');
      expect(await ended).toBe(0);
      await expect(client.models.list()).rejects.toThrow('Connection error');
    } finally {
      log.mockRestore();
      errors.mockRestore();
    }
  }));

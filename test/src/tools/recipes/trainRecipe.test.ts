import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {billRecords} from '../../../../examples/quickstart/billGenerator.ts';
import {
  AdamW,
  AutoModelForCausalLM,
  type Example,
  Llama,
  type LogEntry,
  type StepLog,
  useBackend,
} from '../../../../src/index.ts';
import {nextCommands} from '../../../../src/tools/cli/nextCommands.ts';
import {formatPlan} from '../../../../src/tools/recipes/formatPlan.ts';
import {planRecipe} from '../../../../src/tools/recipes/planRecipe.ts';
import {loadRecipe, type Recipe} from '../../../../src/tools/recipes/recipe.ts';
import {type RunOptions, trainRecipe} from '../../../../src/tools/recipes/trainRecipe.ts';
import {FolderLock} from '../../../../src/training/output/folderLock.ts';
import {runCommandLine} from '../cli/runCommandLine.ts';

/*
 * Recipes for the quickstart's small model and a few of its bills.
 */

const MODEL = join(__dirname, '../../../../examples/quickstart/model');
const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-recipe-'));
const recipeFile = join(folder, 'recipe.yaml');
const output = (name: string) => join(folder, name);

beforeAll(async () => {
  process.env.HF_HOME = join(folder, 'cache'); // for tokenized data
  await useBackend('wasm');
  const data = join(folder, 'data');
  mkdirSync(data);
  writeFileSync(join(data, 'bills.json'), JSON.stringify(billRecords('train', 12)));
  writeFileSync(join(data, 'unseen.json'), JSON.stringify(billRecords('heldOut', 3)));
  const long = billRecords('train', 2).map((bill) => ({...bill, input: bill.input.repeat(9)}));
  writeFileSync(join(data, 'long.json'), JSON.stringify(long));
  const names = ['bills', 'unseen', 'long'];
  const info = Object.fromEntries(names.map((name) => [name, {file_name: `${name}.json`}]));
  writeFileSync(join(data, 'dataset_info.json'), JSON.stringify(info));
  writeFileSync(
    recipeFile,
    `model_name_or_path: ${MODEL}
do_train: true
lora_rank: 4
dataset: bills
dataset_dir: ${data}
template: llama3
cutoff_len: 128
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
learning_rate: 1.0e-2
num_train_epochs: 1
lr_scheduler_type: cosine
warmup_ratio: 0.3
logging_steps: 1
seed: 7
ddp_timeout: 180000000
`,
  );
});
afterAll(() => rmSync(folder, {recursive: true}));

const read = (...overrides: string[]): Promise<Recipe> => loadRecipe(recipeFile, overrides);

async function train(overrides: string[], options: RunOptions = {}): Promise<StepLog[]> {
  const steps: StepLog[] = [];
  const callbacks = [(record: StepLog) => void steps.push(record), ...(options.callbacks ?? [])];
  await trainRecipe(await read(...overrides), {backend: 'wasm', verbose: 0, ...options, callbacks});
  return steps;
}

const json = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8'));
const logitsOf = (model: Llama) =>
  tf.tidy(() =>
    model
      .predict([[1, 2, 3, 4]])
      .dataSync()
      .slice(),
  );

describe('a plan', () => {
  test('counts steps, tokens, parameters and memory, and writes nothing', async () => {
    const before = tf.memory().numTensors;
    const plan = await planRecipe(await read(`output_dir=${output('planned')}`, 'val_size=2'), {
      backend: 'wasm',
      memoryBudget: 2e9,
    });
    expect(formatPlan(plan)).toMatch(/longest rows +[\d,]+ tokens in 1.9 GiB \(the memory budget\)/);
    expect(plan).toMatchObject({
      steps: {total: 3, perEpoch: 3, warmup: 1}, // 10 examples in windows of 4
      data: {training: {examples: 10}, validation: undefined},
      resumeFrom: false,
    });
    const model = await Llama.fromPretrained(MODEL);
    const base = model.countParams();
    model.applyLoRA({rank: 4});
    const trainable = [...model.trainableParameters().values()].reduce((sum, {size}) => sum + size, 0);
    model.dispose();
    expect(plan.parameters).toEqual({total: base + trainable, trainable});
    const {tokens, targets, longest} = plan.data.training!;
    expect(plan.trainedTokens).toBe(tokens);
    expect(targets).toBeLessThan(tokens / 2);
    expect(longest).toBeLessThanOrEqual(128);
    expect(plan.memory!.total).toBeGreaterThan(2 * base);
    expect(existsSync(output('planned'))).toBe(false);
    expect(tf.memory().numTensors).toBe(before);
  });

  test('that needs too much memory is refused with the keys that would make it fit', async () => {
    const recipe = await read(`output_dir=${output('planned')}`, 'disable_gradient_checkpointing=true');
    await expect(planRecipe(recipe, {backend: 'wasm', memoryBudget: 1e5})).rejects.toMatchObject({
      code: 'INSUFFICIENT_MEMORY',
      message: expect.stringMatching(
        /Change disable_gradient_checkpointing: false .* per_device_train_batch_size: 1 with gradient_accumulation_steps: \d+ .* cutoff_len: \d+ .* quantization_bit: 4 and optim: paged_adamw_8bit\./,
      ),
    });
  });

  test('says what fits into the memory of wasm, if not the whole run', async () => {
    const plan = await planRecipe(
      await read(`output_dir=${output('planned')}`, 'per_device_train_batch_size=1000000'),
      {backend: 'wasm'},
    );
    expect(formatPlan(plan)).toMatch(/longest rows +.* in 4.0 GiB \(all that wasm can have/);
  });

  test('is what --dry-run prints', async () => {
    const {status, out} = await runCommandLine(
      ...[
        '--backend',
        'wasm',
        'train',
        recipeFile,
        `output_dir=${output('planned')}`,
        'ddp_backend=nccl',
        '--dry-run',
      ],
    );
    expect(status).toBe(0);
    expect(out).toMatch(/^backend wasm \(requested\): /);
    expect(out).toMatch(/^trains +\d[\d,]* parameters \(.* %\): LoRA of rank 4, alpha 8, on all-linear$/m);
    expect(out).toMatch(/^steps +3 of 2 × 2 examples, 3 an epoch$/m);
    expect(out).toMatch(
      /^ignored +ddp_backend \(each rank trains on one device, as `--processes` or a launcher /m,
    );
    expect(existsSync(output('planned'))).toBe(false);
  });
});

describe('a dry run refuses what a training refuses, with the same message', () => {
  const lora = () => `adapter_name_or_path=${output('dry-adapter')}`;
  beforeAll(async () => {
    await train([`output_dir=${output('dry')}`, 'max_steps=2', 'save_steps=1']);
    writeFileSync(output('dry-file'), '');
    cpSync(MODEL, output('dry-model'), {recursive: true});
    const config = {...json(MODEL, 'config.json'), num_hidden_layers: 5};
    writeFileSync(join(output('dry-model'), 'config.json'), JSON.stringify(config));
    mkdirSync(output('dry-held'));
    mkdirSync(output('dry-empty'));
    mkdirSync(output('dry-adapter'));
    writeFileSync(
      join(output('dry-adapter'), 'adapter_config.json'),
      JSON.stringify({peft_type: 'LORA', r: 4, target_modules: ['q_proj']}),
    );
    FolderLock.take(output('dry-held'), 'test'); // never released, because this process continues
  });

  test.each<[string, () => string[], RegExp]>([
    [
      'examples too long for the model',
      () => ['dataset=long', 'cutoff_len=1000'],
      /recipe\.yaml cutoff_len: expected at most 512, the model's max_position_embeddings, got 1000, and training example \d+ has \d+ tokens\. Set cutoff_len to 512 or less/,
    ],
    [
      'evaluation examples too long',
      () => ['do_train=false', 'do_eval=true', 'eval_dataset=long', 'cutoff_len=1000'],
      /cutoff_len: expected at most 512, .* evaluation example \d+ has/,
    ],
    [
      'prompts that leave no room',
      () => [
        'do_train=false',
        'do_predict=true',
        'predict_with_generate=true',
        'eval_dataset=long',
        'cutoff_len=1000',
      ],
      /prompt \d+: expected 1 to 511 tokens, .* \(cutoff_len in a recipe\)/,
    ],
    [
      'a checkpoint that does not exist',
      () => ['resume_from_checkpoint=/nowhere'],
      /resume_from_checkpoint \/nowhere: expected a checkpoint, or a run that has saved one, got no such folder\./,
    ],
    [
      'a run to resume that does not exist',
      () => ['resume_from_checkpoint=true'],
      /recipe\.yaml resume_from_checkpoint \S+dry-none: expected a checkpoint, .* got no such folder\. Correct output_dir\.\n {2}To start without a checkpoint: .*train .* resume_from_checkpoint=false/,
    ],
    [
      'a run to resume that has saved nothing',
      () => [`output_dir=${output('dry-empty')}`, 'resume_from_checkpoint=true'],
      /resume_from_checkpoint \S+dry-empty: expected a checkpoint, .* got none there/,
    ],
    [
      'a checkpoint of another rank',
      () => [`resume_from_checkpoint=${output('dry')}`, 'lora_rank=2'],
      /lora_A\.weight: expected \[2,128\] as in the model, got \[4,128\]/,
    ],
    [
      'a checkpoint of other data',
      () => [`resume_from_checkpoint=${output('dry')}`, 'max_samples=8'],
      /data: expected the examples of the run/,
    ],
    [
      'an output folder that is a file',
      () => [`output_dir=${output('dry-file')}`],
      /output_dir .*: expected a folder, got a file/,
    ],
    [
      'an output folder inside a file',
      () => [`output_dir=${output('dry-file')}/out`],
      /output_dir .*: expected a folder, got a file/,
    ],
    [
      'an output folder of another run',
      () => [`output_dir=${output('dry-held')}`],
      /output_dir .*: expected a folder that no other run/,
    ],
    [
      'an adapter without weights, to be merged',
      () => [lora(), 'create_new_adapter=true'],
      /adapter_model\.safetensors/,
    ],
    [
      'an adapter without weights, to predict with',
      () => [
        ...[lora(), 'do_train=false', 'do_predict=true', 'predict_with_generate=true', 'eval_dataset=unseen'],
      ],
      /adapter_model\.safetensors/,
    ],
    [
      'a step that does not fit into memory',
      () => ['--memory-budget', '0.001'],
      /expected a peak of at most 976\.6 KiB/,
    ],
    ['nothing to do', () => ['do_train=false'], /expected something to do/],
    [
      'a model with other layers',
      () => [`model_name_or_path=${output('dry-model')}`],
      /expected tensor model\.layers\.4\./,
    ],
  ])('%s', async (_what, overrides, message) => {
    const line = [
      '--backend',
      'wasm',
      'train',
      recipeFile,
      `output_dir=${output('dry-none')}`,
      ...overrides(),
    ];
    const load = jest.spyOn(AutoModelForCausalLM, 'fromPretrained');
    const dry = await runCommandLine(...line, '--dry-run');
    const real = await runCommandLine(...line);
    const allocated = load.mock.calls.filter(([, options]) => options?.allocate !== false);
    load.mockRestore();
    expect(dry).toEqual({status: 2, out: '', err: expect.stringMatching(message)});
    expect(real).toEqual(dry);
    expect(allocated).toEqual([]); // found before the weights are loaded
    expect(existsSync(output('dry-none'))).toBe(false);
  });

  test('a warning is shown once, although a plan opens the tokenizer several times', async () => {
    const dry = await runCommandLine(
      'train',
      recipeFile,
      'template=chatml',
      `output_dir=${output('warned')}`,
      '--dry-run',
    );
    expect(dry.status).toBe(0);
    expect(dry.err.match(/are not tokens of this tokenizer/g)).toHaveLength(1);
  });

  test('adapters to be merged are checked, but not counted', async () => {
    const merged = [`adapter_name_or_path=${output('dry')}`, 'create_new_adapter=true', 'lora_rank=2'];
    const plan = async (...keys: string[]) =>
      planRecipe(await read(`output_dir=${output('planned')}`, ...keys), {backend: 'wasm'});
    expect((await plan(...merged)).parameters).toEqual((await plan('lora_rank=2')).parameters);
  });
});

describe('an unfinished run and overwrite_output_dir', () => {
  const stop = async (...overrides: string[]) => {
    const controller = new AbortController();
    const printed: string[] = [];
    const {isInterrupted} = await trainRecipe(await read(...overrides), {
      backend: 'wasm',
      verbose: 0,
      signal: controller.signal,
      print: (text) => printed.push(text),
      callbacks: [({step}) => void (step === 1 && controller.abort())],
    });
    expect(isInterrupted).toBe(true);
    return printed.at(-1);
  };

  test('is kept until the user chooses to resume or to start over', async () => {
    const keys = [`output_dir=${output('kept')}`, 'overwrite_output_dir=true'];
    expect(await stop(...keys)).toBe(
      `stopped; ${join(output('kept'), 'checkpoint-1')} is saved\n  To resume: run the same recipe with resume_from_checkpoint=true`,
    );
    const again = train(keys);
    await expect(again).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message:
        `${recipeFile} output_dir ${output('kept')}: expected no unfinished run in it, got checkpoint-1.\n` +
        '  To resume: run the same recipe with resume_from_checkpoint=true\n' +
        '  To start over and remove it: run the same recipe with overwrite_output_dir=true resume_from_checkpoint=false',
    });
    expect(readdirSync(output('kept'))).toContain('checkpoint-1');
    const over = await train([...keys, 'resume_from_checkpoint=false', 'max_steps=1']);
    expect(over.map(({step}) => step)).toEqual([1]); // it is finished now
    expect((await train(keys)).map(({step}) => step)).toEqual([1, 2, 3]); // so it is overwritten, as the recipe says
  });

  test('stopped before anything was saved starts again with the command it names', async () => {
    const printed: string[] = [];
    const keys = [`output_dir=${output('early')}`];
    const print = (text: string) => void printed.push(text);
    await train(keys, {signal: AbortSignal.abort(), print});
    expect(printed.at(-1)).toMatch(/To start again: run the same recipe again$/);
    expect(printed.join('\n')).not.toContain('resume_from_checkpoint=true');
    expect(await train([...keys, 'max_steps=1'])).toHaveLength(1);
  });

  test('resumes if the recipe says so', async () => {
    const keys = [`output_dir=${output('gone-on')}`, 'overwrite_output_dir=true'];
    await stop(...keys);
    const rest = await train([...keys, `resume_from_checkpoint=${output('gone-on')}`]);
    expect(rest.map(({step}) => step)).toEqual([2, 3]);
  });

  test('names the command to predict if it was stopped after training', async () => {
    const controller = new AbortController();
    const printed: string[] = [];
    const keys = ['do_predict=true', 'predict_with_generate=true', 'eval_dataset=unseen', 'max_steps=1'];
    const folder = output('trained-only');
    const {isInterrupted} = await trainRecipe(await read(...keys, `output_dir=${folder}`, 'cutoff_len=400'), {
      backend: 'wasm',
      verbose: 0,
      signal: controller.signal,
      print: (text) => printed.push(text),
      callbacks: [{onTrainComplete: () => controller.abort()}],
    });
    expect(isInterrupted).toBe(true);
    const advice = `run the same recipe with do_train=false adapter_name_or_path=${folder}`;
    expect(printed.at(-1)).toBe(
      `stopped in the prediction; the training is finished\n  To resume: ${advice}`,
    );
    expect(readdirSync(folder)).not.toContain('predict_results.json');
    await train([
      ...keys,
      `output_dir=${folder}`,
      'cutoff_len=400',
      'max_new_tokens=2',
      'do_train=false',
      `adapter_name_or_path=${folder}`,
    ]);
    expect(readdirSync(folder)).toContain('predict_results.json');
  });
});

describe('a finished run', () => {
  const line = (name: string, ...more: string[]) => [
    ...['--backend', 'wasm', 'train', recipeFile, `output_dir=${output(name)}`, ...more],
  ];
  const filesIn = (name: string) =>
    Object.fromEntries(
      readdirSync(output(name))
        .filter((file) => /\.(json|jsonl|safetensors)$/.test(file))
        .map((file) => [file, readFileSync(join(output(name), file), 'latin1')]),
    );

  test('is overwritten with the results of its model, and the plan and a warning say so', async () => {
    const keys = ['overwrite_output_dir=true', 'max_steps=1'];
    await train([...keys, `output_dir=${output('over')}`]);
    const results = [
      'comparison.json',
      'comparison.md',
      'generated_predictions.jsonl',
      'predict_results.json',
    ];
    for (const name of results) writeFileSync(join(output('over'), name), '{}');
    mkdirSync(join(output('over'), 'comparison-1'));
    writeFileSync(join(output('over'), 'comparison-notes.md'), 'of the user');
    const dry = await runCommandLine(...line('over', ...keys, '--dry-run'));
    expect(dry.out).toMatch(
      /^overwrites +a finished run: checkpoint-1, .*comparison-1, .*predict_results\.json$/m,
    );
    expect(readdirSync(output('over'))).toEqual(expect.arrayContaining([...results, 'comparison-1']));
    const real = await runCommandLine(...line('over', ...keys));
    expect(real.status).toBe(0);
    expect(real.out).toMatch(/^overwrites +a finished run: checkpoint-1, /m);
    expect(real.err).toMatch(
      /over: training removes a finished run: checkpoint-1, .*generated_predictions\.jsonl/,
    );
    const left = readdirSync(output('over'));
    for (const name of [...results, 'comparison-1']) expect(left).not.toContain(name);
    expect(left).toContain('comparison-notes.md');
  });

  test('loses the results of its model when training continues', async () => {
    await train(['max_steps=1', `output_dir=${output('longer')}`]);
    writeFileSync(join(output('longer'), 'generated_predictions.jsonl'), '{}');
    const {status, err} = await runCommandLine(...line('longer', 'max_steps=2'));
    expect(status).toBe(0);
    expect(err).toMatch(
      /training resumes, so the results of the earlier model are removed \(.*generated_predictions/,
    );
    expect(readdirSync(output('longer'))).not.toContain('generated_predictions.jsonl');
  });

  test('removes results of another model with a warning', async () => {
    mkdirSync(output('base-results'));
    writeFileSync(join(output('base-results'), 'generated_predictions.jsonl'), '{}');
    const {status, out, err} = await runCommandLine(...line('base-results', 'max_steps=1'));
    expect(status).toBe(0);
    expect(out).toMatch(/^overwrites +results of another model: generated_predictions\.jsonl$/m);
    expect(err).toContain('training removes results of another model: generated_predictions.jsonl');
    expect(readdirSync(output('base-results'))).not.toContain('generated_predictions.jsonl');
  });

  test.each([
    ['resume_from_checkpoint=true', ['resume_from_checkpoint=true', 'overwrite_output_dir=true']],
    ['the same recipe', []],
    ['checkpoints only when stopped', ['save_strategy=no', 'resume_from_checkpoint=true']],
  ])('is unchanged by the command that resumes: %s', async (what, keys) => {
    const name = `done ${what}`;
    const controller = new AbortController();
    const stop = ({step}: StepLog) => void (step === 1 && controller.abort());
    await train([`output_dir=${output(name)}`], {signal: controller.signal, callbacks: [stop]});
    await train([`output_dir=${output(name)}`, ...keys]);
    const before = filesIn(name);
    expect(Object.keys(before)).toContain('train_results.json');
    const dry = await runCommandLine(...line(name, ...keys, '--dry-run'));
    expect(dry.out).toMatch(/^finished at +.*checkpoint-\d$/m);
    const {status, out} = await runCommandLine(...line(name, ...keys));
    expect(status).toBe(0);
    expect(out).toMatch(/^already finished: /m);
    expect(out).toContain('train_loss');
    expect(filesIn(name)).toEqual(before);
  });

  test('ends with the commands that use it, which run', async () => {
    const {status, out} = await runCommandLine(...line('next', 'max_steps=1', 'val_size=2', 'seed=7'));
    expect(status).toBe(0);
    const [, ...commands] = out
      .trimEnd()
      .split(/\n(?=next:)/)[1]
      .split(/\n {2}(?:npx )?tfjs-lora /);
    const target = `${recipeFile} output_dir=${output('next')} max_steps=1 val_size=2 seed=7`;
    expect(commands).toEqual([
      `--backend wasm chat ${target}`,
      `--backend wasm eval ${target}`,
      `--backend wasm export ${target} export_dir=${output('next')}-merged`,
    ]);
    expect(await runCommandLine(...commands[2].split(' '))).toMatchObject({status: 0});
    expect(readdirSync(`${output('next')}-merged`)).toContain('config.json');
  });

  test('names no chat after a reward model', async () => {
    await train([`output_dir=${output('reward')}`, 'max_steps=1']);
    const recipe = await read('stage=rm', `output_dir=${output('reward')}`);
    const commands = await nextCommands(recipe, {
      backend: 'auto',
      import: [],
      path: recipeFile,
      overrides: [],
    });
    expect(commands).not.toMatch(/lora chat/);
    expect(commands).toContain('export');
  });

  test('makes the predictions that are still missing', async () => {
    const keys = ['max_steps=1', 'cutoff_len=400', `output_dir=${output('unpredicted')}`];
    await train(keys);
    const results = readFileSync(join(output('unpredicted'), 'train_results.json'), 'utf8');
    const predict = [
      'do_predict=true',
      'predict_with_generate=true',
      'eval_dataset=unseen',
      'max_new_tokens=2',
    ];
    expect(await train([...keys, ...predict])).toEqual([]);
    expect(readdirSync(output('unpredicted'))).toContain('predict_results.json');
    expect(readFileSync(join(output('unpredicted'), 'train_results.json'), 'utf8')).toBe(results);
  });
});

describe('training with a recipe', () => {
  let steps: StepLog[];

  beforeAll(async () => {
    const before = tf.memory().numTensors;
    steps = await train([
      `output_dir=${output('lora')}`,
      ...['eval_dataset=unseen', 'eval_strategy=steps', 'eval_steps=2', 'save_steps=2', 'plot_loss=true'],
    ]);
    expect(tf.memory().numTensors).toBe(before);
  }, 120_000);

  test('takes the planned steps', () => {
    expect(steps.map(({step, totalSteps}) => [step, totalSteps])).toEqual([1, 2, 3].map((step) => [step, 3]));
    const rates = steps.map(({learningRate}) => learningRate);
    expect(rates[0]).toBe(0);
    expect(rates[1]).toBeCloseTo(1e-2, 10); // after one step of warm-up
    expect(rates[2]).toBeCloseTo(5e-3, 10);
  });

  test("writes LLaMA-Factory's files", () => {
    expect(readdirSync(output('lora'))).toEqual(
      expect.arrayContaining([
        'adapter_config.json',
        'adapter_model.safetensors',
        'all_results.json',
        'checkpoint-2',
        'checkpoint-3',
        'eval_results.json',
        'tokenizer.json',
        'train_results.json',
        'trainer_log.jsonl',
        'trainer_state.json',
        'training_eval_loss.png',
        'training_loss.png',
      ]),
    );
    expect(json(output('lora'), 'adapter_config.json')).toMatchObject({
      base_model_name_or_path: MODEL,
      r: 4,
      lora_alpha: 8,
      target_modules: ['down_proj', 'gate_proj', 'k_proj', 'o_proj', 'q_proj', 'up_proj', 'v_proj'],
    });
    const {train_loss, eval_loss} = json(output('lora'), 'all_results.json');
    expect(train_loss).toBeCloseTo(steps.reduce((sum, {loss}) => sum + loss, 0) / 3, 6);
    expect(eval_loss).toBe(json(output('lora'), 'eval_results.json').eval_loss);
  });

  test('gets the same loss from a separate recipe for evaluation', async () => {
    const own = [
      'do_train=false',
      'do_eval=true',
      'eval_dataset=unseen',
      `output_dir=${output('evaluated')}`,
    ];
    mkdirSync(output('evaluated'));
    await train([...own, `adapter_name_or_path=${output('lora')}`]);
    const {eval_loss} = json(output('evaluated'), 'eval_results.json');
    expect(eval_loss).toBeCloseTo(json(output('lora'), 'eval_results.json').eval_loss, 5);
  });

  test('exports a model with the same results as the adapter', async () => {
    const merge = join(folder, 'merge.yaml');
    writeFileSync(
      merge,
      `model_name_or_path: ${MODEL}\nadapter_name_or_path: ${output('lora')}\nexport_dir: ${output('merged')}\ninfer_dtype: float32\n`,
    );
    const {status, out} = await runCommandLine('--backend', 'wasm', 'export', merge);
    expect({status, out}).toEqual({
      status: 0,
      out: expect.stringMatching(/merged: .* of float32 in 1 file, .*lora merged in/),
    });
    const merged = await Llama.fromPretrained(output('merged'));
    const adapted = await Llama.fromPretrained(MODEL, {dtype: 'float32'});
    await adapted.loadAdapter(output('lora'));
    const [found, expected] = [logitsOf(merged), logitsOf(adapted)];
    merged.dispose();
    adapted.dispose();
    expect(Math.max(...found.map((value, i) => Math.abs(value - expected[i])))).toBeLessThan(1e-4);
  });

  test('continues with an adapter, or merges it and starts another', async () => {
    const given = `adapter_name_or_path=${output('lora')}`;
    const first = async (...more: string[]) =>
      (
        await train([
          given,
          'max_steps=1',
          `output_dir=${output('next')}`,
          'overwrite_output_dir=true',
          ...more,
        ])
      )[0];
    const [continued, another] = [await first(), await first('create_new_adapter=true', 'lora_rank=2')];
    expect(continued.loss).toBeLessThan(steps[0].loss);
    expect(another.loss).toBeCloseTo(continued.loss, 1); // merged into bfloat16
    expect(json(output('next'), 'adapter_config.json').r).toBe(2);
  });

  test('refuses a folder with a run whose checkpoints are missing', async () => {
    mkdirSync(output('leftover'));
    writeFileSync(join(output('leftover'), 'adapter_config.json'), '{}');
    await expect(train([`output_dir=${output('leftover')}`])).rejects.toThrow(
      'expected no earlier run in it',
    );
  });
});

test('a recipe gives the same results as calls of the library', async () => {
  const examples: Example[] = [];
  const seen = await train([`output_dir=${output('same')}`, 'disable_shuffling=true', 'save_strategy=no'], {
    callbacks: [
      {
        setModel: (given: unknown) => {
          const model = given as Llama;
          const lossSum = model.lossSum.bind(model);
          model.lossSum = (batch, options) => {
            for (const [row, inputIds] of (batch.inputIds as number[][]).entries()) {
              const [labels, attentionMask] = [batch.labels, batch.attentionMask].map(
                (rows) => (rows as number[][])[row],
              );
              examples.push({inputIds, labels, attentionMask});
            }
            return lossSum(batch, options);
          };
        },
      },
    ],
  });
  const model = await Llama.fromPretrained(MODEL);
  model.applyLoRA({rank: 4, alpha: 8, targetModules: 'all-linear', seed: 7});
  model.compile({
    optimizer: new AdamW({learningRate: 1e-2, weightDecay: 0}),
    schedule: {name: 'cosine', warmupSteps: 1},
    maxGradNorm: 1,
  });
  const options = {batchSize: 2, gradientAccumulationSteps: 2, shuffle: false, seed: 7, verbose: 0};
  const {steps} = await model.fitDataset(examples, options);
  model.dispose();
  expect(examples).toHaveLength(12);
  expect(seen.map(({loss}) => loss)).toEqual(steps.map(({loss}) => loss));
  expect(seen.map(({learningRate}) => learningRate)).toEqual(steps.map(({learningRate}) => learningRate));
});

test('an interrupted run resumes where it stopped', async () => {
  const whole = await train([`output_dir=${output('whole')}`]);
  const controller = new AbortController();
  const {isInterrupted} = await trainRecipe(await read(`output_dir=${output('halted')}`), {
    backend: 'wasm',
    verbose: 0,
    signal: controller.signal,
    callbacks: [({step}) => void (step === 1 && controller.abort())],
  });
  expect(isInterrupted).toBe(true);
  expect(readdirSync(output('halted'))).toContain('checkpoint-1');
  const rest = await train([`output_dir=${output('halted')}`]);
  expect(rest.map(({step}) => step)).toEqual([2, 3]);
  expect(rest.map(({loss}) => loss)).toEqual(whole.slice(1).map(({loss}) => loss));
}, 120_000);

test('prediction answers every prompt and scores the answers', async () => {
  const predict = [
    'do_train=false',
    'do_predict=true',
    'predict_with_generate=true',
    'eval_dataset=unseen',
    'cutoff_len=512',
  ];
  await train([...predict, 'max_new_tokens=4', 'do_sample=false', `output_dir=${output('predicted')}`]);
  const lines = readFileSync(join(output('predicted'), 'generated_predictions.jsonl'), 'utf8')
    .trim()
    .split('\n');
  const predictions = lines.map((line) => JSON.parse(line));
  expect(predictions.map(({label}) => label)).toEqual(billRecords('heldOut', 3).map(({output}) => output));
  for (const {prompt} of predictions)
    expect(prompt).toMatch(/<\|start_header_id\|>assistant<\|end_header_id\|>\n\n$/);
  expect(json(output('predicted'), 'predict_results.json')).toMatchObject({
    'predict_rouge-1': expect.any(Number),
    'predict_bleu-4': expect.any(Number),
  });
});

let plainStep: Promise<StepLog> | undefined;
test.each([
  ['use_dft_loss=true'],
  ['use_eaft_loss=true', 'eaft_alpha=2'],
  ['use_asft_loss=true', 'asft_alpha=0.2'],
  ['label_smoothing_factor=0.1'],
  ['neftune_noise_alpha=5'],
])('%s changes what a step learns', async (...keys) => {
  const step = async (name: string, ...own: string[]) =>
    (await train([...own, 'max_steps=1', 'cutoff_len=32', `output_dir=${output(name)}`]))[0];
  plainStep ??= step('plain-loss');
  const {loss, gradNorm} = await step(`loss-${keys[0]}`, ...keys);
  expect(loss).not.toBeCloseTo((await plainStep).loss, 4);
  expect(gradNorm).toBeGreaterThan(0);
});

test('use_asft_loss compares a model that trains whole with itself before, or with ref_model', async () => {
  const losses = async (name: string, ...keys: string[]) => {
    const own = [
      'finetuning_type=full',
      'max_steps=2',
      'cutoff_len=32',
      'warmup_ratio=0',
      `output_dir=${output(name)}`,
    ];
    return (await train([...own, ...keys])).map(({loss}) => loss);
  };
  const asft = ['use_asft_loss=true', 'asft_alpha=1'];
  const dft = await losses('dft', 'use_dft_loss=true');
  const fromItself = await losses('asft', ...asft);
  expect(fromItself[0]).toBeCloseTo(dft[0], 4);
  expect(fromItself[1]).toBeGreaterThan(dft[1] + 1e-3);
  const [first] = await losses('asft-other', ...asft, `ref_model=${output('dft')}`);
  expect(first).toBeGreaterThan(dft[0] + 1e-3);
  const pissa = ['finetuning_type=lora', 'pissa_init=true', `ref_model=${MODEL}`]; // a second copy of the base
  expect((await losses('asft-pissa', ...asft, ...pissa))[0]).toBeCloseTo(fromItself[0], 3);
});

test('predict_with_generate beside do_train scores the answers at each evaluation, as do_predict does', async () => {
  const keys = [
    ...['eval_dataset=unseen', 'cutoff_len=400', 'max_new_tokens=2', 'max_steps=2', 'eval_strategy=steps'],
    ...[
      'eval_steps=1',
      'predict_with_generate=true',
      'metric_for_best_model=eval_rouge-l',
      'do_predict=true',
    ],
    ...['save_strategy=best', 'early_stopping_steps=9', `output_dir=${output('scored')}`],
  ];
  const {data} = await planRecipe(await read(...keys, 'eval_generate_samples=2'), {backend: 'wasm'});
  expect(data).toMatchObject({prompts: 3, validationPrompts: 2});
  await train(keys);
  const {log_history} = json(output('scored'), 'trainer_state.json');
  const scores = log_history.filter((entry: LogEntry) => 'eval_rouge-l' in entry);
  expect(scores.map(({step}: LogEntry) => step)).toEqual([1, 2]);
  const {'predict_bleu-4': bleu, predict_sacrebleu} = json(output('scored'), 'predict_results.json');
  expect(scores.at(-1)).toMatchObject({'eval_bleu-4': bleu, eval_sacrebleu: predict_sacrebleu});
}, 120_000);

test('streamed data trains for max_steps, and its plan has no other numbers', async () => {
  const streamed = ['streaming=true', 'max_steps=2', 'buffer_size=4', `output_dir=${output('streamed')}`];
  const {data, steps, trainedTokens} = await planRecipe(await read(...streamed), {backend: 'wasm'});
  expect({...data, trainedTokens}).toEqual({
    training: undefined,
    validation: undefined,
    prompts: undefined,
    trainedTokens: undefined,
  });
  expect(steps).toMatchObject({total: 2, perEpoch: undefined});
  expect(await train(streamed)).toHaveLength(2);
});

test('plain text is packed into rows of cutoff_len', async () => {
  const text = ['stage=pt', `output_dir=${output('text')}`];
  const {data} = await planRecipe(await read(...text), {backend: 'wasm'});
  const {examples, tokens, targets, longest} = data.training!;
  expect(longest).toBe(128);
  expect(tokens).toBeGreaterThan(128 * (examples - 1));
  expect(targets).toBeGreaterThan(0.9 * tokens);
  const [first] = await train([...text, 'max_steps=1']);
  expect(first.loss).toBeGreaterThan(0.5);
});

test.each([
  ['full', ['finetuning_type=full'], 'model.safetensors'],
  ['freeze', ['finetuning_type=freeze', 'freeze_trainable_layers=1'], 'model.safetensors'],
  ['QLoRA', ['quantization_bit=4'], 'adapter_model.safetensors'],
  ['LoRA with new tokens', ['lora_target=q_proj', 'add_tokens=<amount>,<date>'], 'adapter_model.safetensors'],
  [
    'LoRA beside whole modules',
    ['lora_target=q_proj', 'additional_target=embed_tokens,lm_head'],
    'adapter_model.safetensors',
  ],
  ['DoRA on the attention', ['use_dora=true', 'lora_target=q_proj,v_proj'], 'adapter_model.safetensors'],
])('%s trains', async (name, overrides, file) => {
  const [first] = await train([
    ...overrides,
    `output_dir=${output(name)}`,
    'max_steps=1',
    'learning_rate=1e-3',
  ]);
  expect(first.loss).toBeGreaterThan(1);
  expect(readdirSync(output(name))).toContain(file);
});

test('PiSSA starts as the base, and its conversion equals what was trained', async () => {
  const steps = ['max_steps=2', 'learning_rate=1e-3', 'lora_target=q_proj'];
  const [plain] = await train([...steps, `output_dir=${output('plain')}`]);
  const folder = output('pissa');
  const pissa = ['pissa_init=true', 'pissa_iter=-1', 'pissa_convert=true'];
  const [first] = await train([...steps, ...pissa, `output_dir=${folder}`]);
  expect(first.loss).toBeCloseTo(plain.loss, 4);
  const configs = ['', 'pissa_converted'].map((name) => json(folder, name, 'adapter_config.json'));
  expect(configs.map(({init_lora_weights, r}) => [init_lora_weights, r])).toEqual([
    ['pissa', 4],
    [true, 8],
  ]);
}, 60_000);

describe('mistakes', () => {
  test('are reported with the message alone and status 2, before any work', async () => {
    const {status, out, err} = await runCommandLine(
      'train',
      recipeFile,
      'lora_rank=0',
      `output_dir=${output('mistaken')}`,
    );
    expect({status, out}).toEqual({status: 2, out: ''});
    expect(err).toBe('argument lora_rank=0 lora_rank: expected an integer from 1, got 0\n');
  });

  test('a training that does not fit into memory says what to change', async () => {
    const tight = ['--memory-budget', '0.001', `output_dir=${output('large')}`];
    const {status, err} = await runCommandLine('--backend', 'wasm', 'train', recipeFile, ...tight);
    expect(status).toBe(2);
    expect(err).toMatch(/expected a peak of at most 976\.6 KiB, got an estimate of .* Change /);
  });

  test('an unknown optimizer', async () => {
    await expect(train([`output_dir=${output('other')}`, 'optim=adamw_torhc'])).rejects.toThrow(
      `${recipeFile} optim: optimizer "adamw_torhc": expected`,
    );
  });

  test('a recipe with nothing to do', async () => {
    await expect(train(['do_train=false'])).rejects.toThrow(
      `${recipeFile}: expected something to do, got do_train, do_eval and do_predict all false. Set one of them to true, or ` +
        'use the recipe with chat or serve.',
    );
    await expect(train(['do_train=false', 'export_dir=merged'])).rejects.toThrow(
      'or export the model: tfjs-lora export.',
    );
  });

  test('an export without a folder', async () => {
    const {status, err} = await runCommandLine('export', recipeFile, 'do_train=false');
    expect({status, err}).toEqual({
      status: 2,
      err: `${recipeFile} export_dir: expected a folder, got none\n`,
    });
  });
});

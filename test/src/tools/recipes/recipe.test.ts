import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {homedir, tmpdir} from 'node:os';
import {join} from 'node:path';
import fc from 'fast-check';
import {LoRAAdapter} from '../../../../layers/loraAdapter.ts';
import {LoRADense} from '../../../../layers/loraDense.ts';
import {LORA_FIELDS} from '../../../../layers/loraFields.ts';
import {registerAdapter} from '../../../../models/peft/adapterRegistry.ts';
import {getQuantizer, registerQuantizer} from '../../../../quant/quantizerRegistry.ts';
import {
  FORMER_NAMES,
  IGNORED_KEYS,
  PEERS_NAMES,
  REFUSED_KEYS,
} from '../../../../src/tools/recipes/foreignKeys.ts';
import {isRecipeKey} from '../../../../src/tools/recipes/parseRecipe.ts';
import {loadRecipe, type Recipe, resolveRecipe} from '../../../../src/tools/recipes/recipe.ts';
import {recipeSchema} from '../../../../src/tools/recipes/recipeKeys.ts';
import {parseRecipeText} from '../../../../src/tools/recipes/recipeSource.ts';

const recipes = join(__dirname, '../../../../examples/recipes');
const MODEL = 'model_name_or_path: model\n';
const TRAIN = `${MODEL}do_train: true\ndataset: bills\noutput_dir: out\n`;

function read(text: string, ...overrides: string[]): Recipe {
  return resolveRecipe(parseRecipeText(text, 'recipe.yaml', overrides), 'recipe.yaml');
}

function fault(text: string, ...overrides: string[]): {code: string; message: string} {
  try {
    read(text, ...overrides);
  } catch (error) {
    const {code, message} = error as {code: string; message: string};
    return {code, message};
  }
  throw new Error('expected a fault, got none');
}

describe('the recipes of examples/', () => {
  test('train_lora.yaml becomes the arguments that it describes', async () => {
    const recipe = await loadRecipe(join(recipes, 'train_lora.yaml'));
    expect(recipe).toMatchObject({
      tasks: {train: true, evaluate: true, predict: false},
      model: {nameOrPath: 'meta-llama/Llama-3.2-1B-Instruct', dtype: 'bfloat16', gradientCheckpointing: true},
      method: 'lora',
      lora: {rank: 8, alpha: 16, dropout: 0, targetModules: 'all-linear', seed: 42},
      splits: {dataset: ['summarization_data_train'], evaluationDataset: [], valSize: 0.1},
      data: {
        stage: 'sft',
        datasetDir: 'data',
        template: 'llama3',
        cutoffLength: 2048,
        maxSamples: 1000,
        packing: undefined,
        overwriteCache: true,
        workers: 16,
        seed: 42,
      },
      fit: {
        outputDir: 'saves/llama3.2-1b-instruct/lora/sft',
        overwriteOutputDir: true,
        loggingSteps: 2,
        saveSteps: 50,
        saveStrategy: 'steps',
        evaluationStrategy: 'steps',
        evaluationSteps: 50,
        plotLoss: true,
        reportTo: [],
        batchSize: 4,
        validationBatchSize: 1,
        gradientAccumulationSteps: 8,
        epochs: 1,
        seed: 42,
      },
      optimizer: {name: 'adamw_torch', learningRate: 1e-4, weightDecay: 0},
      compile: {schedule: {name: 'cosine'}, maxGradNorm: 1},
      warmup: {ratio: 0.1},
      prediction: {batchSize: 1, seed: 42, outputDir: 'saves/llama3.2-1b-instruct/lora/sft'},
    });
    expect([...recipe.ignored.keys()]).toEqual(['trust_remote_code']);
    expect(recipe.cluster).toEqual({timeout: 180_000_000});
    expect(recipe.fit.maxSteps).toBeUndefined();
  });

  test('merge_lora.yaml becomes the arguments that it describes', async () => {
    const recipe = await loadRecipe(join(recipes, 'merge_lora.yaml'));
    expect(recipe).toMatchObject({
      tasks: {train: false, evaluate: false, predict: false},
      model: {adapters: ['saves/llama3.2-1b-instruct/lora/sft'], quantization: undefined, dtype: undefined},
      export: {exportDir: 'output/llama3', format: 'safetensors', exportSizeGB: 5, dtype: undefined},
    });
  });
});

test('an empty recipe has the defaults of LLaMA-Factory and transformers', () => {
  const {fit, optimizer, compile, warmup, splits, data, generation, method, lora} = read(MODEL);
  expect(fit).toMatchObject({
    batchSize: 8,
    validationBatchSize: 8,
    gradientAccumulationSteps: 1,
    epochs: 3,
    seed: 42,
    shuffle: true,
    loggingSteps: 500,
    saveSteps: 500,
    evaluationSteps: 500,
    evaluationStrategy: 'no',
  });
  expect(optimizer).toMatchObject({
    name: 'adamw_torch',
    learningRate: 5e-5,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weightDecay: 0,
  });
  expect(compile).toEqual({schedule: {name: 'linear'}, maxGradNorm: 1});
  expect(warmup).toEqual({ratio: 0, steps: 0});
  expect(data).toMatchObject({datasetDir: 'data', cutoffLength: 2048, mixStrategy: 'concat', seed: 42});
  expect(splits).toEqual({dataset: [], evaluationDataset: [], valSize: 0});
  expect(generation).toEqual({
    doSample: true,
    temperature: 0.95,
    topP: 0.7,
    topK: 50,
    maxNewTokens: 1024,
    repetitionPenalty: 1,
    skipSpecialTokens: true,
  });
  expect(method).toBe('lora');
  expect(lora).toMatchObject({rank: 8, alpha: 16, targetModules: 'all-linear', seed: 42});
});

describe('values', () => {
  test('lists are comma-separated or YAML lists', () => {
    const both = ['lora_target: q_proj, v_proj', 'lora_target: [q_proj, v_proj]'].map((line) =>
      read(MODEL + line),
    );
    for (const {lora} of both) expect(lora).toMatchObject({targetModules: ['q_proj', 'v_proj']});
  });

  test('the booleans of YAML 1.1 are booleans for keys that expect one', () => {
    const {fit, data} = read(
      `${TRAIN}plot_loss: yes\npacking: On\nstreaming: no\ntemplate: no\neval_strategy: no`,
    );
    expect(fit).toMatchObject({plotLoss: true, evaluationStrategy: 'no'});
    expect(data).toMatchObject({packing: true, streaming: false, template: 'no'});
    expect(read(`${TRAIN}eval_strategy: false\nsave_strategy: false`).fit).toMatchObject({
      evaluationStrategy: 'no',
      saveStrategy: 'no',
    });
  });

  test('exponents are numbers with and without a point', () => {
    expect(read(`${MODEL}learning_rate: 1e-4`).optimizer.learningRate).toBe(1e-4);
    expect(read(`${MODEL}learning_rate: 1.0e-4`).optimizer.learningRate).toBe(1e-4);
  });

  test('a key without a value has its default', () => {
    expect(read(`${MODEL}lora_rank:\nresume_from_checkpoint: null\nddp_timeout:`).lora).toMatchObject({
      rank: 8,
    });
  });

  test('alpha is twice the rank unless given', () => {
    expect(read(`${MODEL}lora_rank: 16`).lora).toMatchObject({alpha: 32});
    expect(read(`${MODEL}lora_rank: 16\nlora_alpha: 8`).lora).toMatchObject({alpha: 8});
  });

  test('quantization', () => {
    const of = (lines: string) => read(MODEL + lines).model.quantization;
    expect(of('')).toBeUndefined();
    expect(of('quantization_bit: 4')).toEqual({type: 'nf4', doubleQuant: true});
    expect(of('quantization_bit: 4\nquantization_type: fp4\ndouble_quantization: false')).toEqual({
      type: 'fp4',
      doubleQuant: false,
    });
    expect(of('quantization_bit: 8')).toEqual({type: 'int8', doubleQuant: false});
    const own = 'quantization_method: test-own\n';
    const expected = 'bitsandbytes, bnb or the name of a registered quantizer';
    expect(fault(`${MODEL}quantization_bit: 4\n${own}`).message).toContain(
      `expected ${expected}, got "test-own"`,
    );
    registerQuantizer({...getQuantizer('nf4'), name: 'test-own'});
    expect(of(`quantization_bit: 4\n${own}`)).toEqual({type: 'test-own'});
    expect(fault(`${MODEL}${own}`).message).toContain(
      'quantization_method: expected quantization_bit with it',
    );
  });

  test('the format of an export', () => {
    const {export: exporting} = read(`${MODEL}export_format: gguf\nexport_gguf_type: q4_k_m`);
    expect(exporting).toMatchObject({format: 'gguf', ggufType: 'q4_k_m'});
  });

  test('a kind of adapter that an extension registers', () => {
    const own = `${MODEL}finetuning_type: test_recipe_kind\n`;
    const expected = 'expected lora, full, freeze or a registered kind of adapter, got "test_recipe_kind"';
    expect(fault(own).message).toContain(expected);
    class Kind extends LoRAAdapter {
      static override readonly fields = {rank: LORA_FIELDS.rank, dropout: LORA_FIELDS.dropout};
      static override readonly peftType = 'TEST_RECIPE_KIND';
    }
    class KindDense extends LoRADense {
      static override readonly adapterClass = Kind;
    }
    registerAdapter(KindDense);
    const {method, lora} = read(`${own}lora_rank: 4\nlora_dropout: 0.1\nquantization_bit: 4\n`);
    expect(method).toBe('lora');
    expect(lora).toEqual({rank: 4, dropout: 0.1, targetModules: 'all-linear', layerClass: KindDense});
    for (const key of ['lora_alpha: 8', 'use_dora: true', 'use_rslora: true']) {
      const message = `${key.split(':')[0]}: expected none with finetuning_type test_recipe_kind, which has no such setting`;
      expect(fault(`${own}${key}`)).toMatchObject({
        code: 'INVALID_CONFIG',
        message: expect.stringContaining(message),
      });
    }
  });

  test('packing is only for plain text by default', () => {
    expect(read(MODEL).data.packing).toBeUndefined(); // the data decides
    expect(read(`${MODEL}stage: pt\npacking: false`).data.packing).toBe(false);
    expect(read(`${MODEL}neat_packing: true`).data.packing).toBe(true);
  });

  test('only float32 trains, so a full fine-tuning loads float32', () => {
    expect(read(`${TRAIN}bf16: true`).model.dtype).toBe('bfloat16');
    expect(read(`${TRAIN}bf16: true\nfinetuning_type: full`).model.dtype).toBe('float32');
    expect(read(`${TRAIN}fp16: true`).model.dtype).toBe('float16');
  });

  test('former names of transformers are accepted', () => {
    expect(read(`${TRAIN}val_size: 0.1\nevaluation_strategy: epoch`).fit.evaluationStrategy).toBe('epoch');
  });

  test('reports', () => {
    expect(read(`${MODEL}report_to: none`).fit.reportTo).toEqual([]);
    expect(read(`${MODEL}report_to: all`).fit.reportTo).toEqual(['tensorboard', 'csv']);
    expect(read(`${MODEL}report_to: [csv]`).fit.reportTo).toEqual(['csv']);
  });
});

describe('arguments', () => {
  test('override the file', () => {
    const recipe = read(
      `${TRAIN}lora_rank: 8`,
      'lora_rank=16',
      'plot_loss=True',
      'lora_target=q_proj,v_proj',
    );
    expect(recipe.lora).toMatchObject({rank: 16, targetModules: ['q_proj', 'v_proj']});
    expect(recipe.fit.plotLoss).toBe(true);
  });

  test('replace a wrong value in the file', () => {
    expect(read(`${MODEL}lora_rank: eight`, 'lora_rank=8').lora).toMatchObject({rank: 8});
  });

  test('are named in faults', () => {
    expect(fault(MODEL, 'lora_rank=x')).toEqual({
      code: 'INVALID_CONFIG',
      message: 'argument lora_rank=x lora_rank: expected an integer from 1, got "x"',
    });
    expect(fault(MODEL, 'lora_rank').message).toBe(
      'argument lora_rank: expected key=value, such as lora_rank=16, without spaces, got no "=". ' +
        'The folder of an adapter is adapter_name_or_path=<folder>.',
    );
  });

  test('may contain an equals sign', () => {
    expect(read(MODEL, 'output_dir=a=b').fit.outputDir).toBe('a=b');
  });
});

test('keys for the storage of block inputs', () => {
  const checkpointing = (...overrides: string[]) => read(MODEL, ...overrides).model.gradientCheckpointing;
  expect(checkpointing('use_unsloth_gc=true')).toBe('offload');
  expect(checkpointing('use_unsloth_gc=false')).toBe(true);
  expect(checkpointing('disable_gradient_checkpointing=true')).toBe(false);
  expect(fault(MODEL, 'use_unsloth_gc=true', 'disable_gradient_checkpointing=true')).toEqual({
    code: 'INVALID_CONFIG',
    message:
      'argument use_unsloth_gc=true use_unsloth_gc: expected false with disable_gradient_checkpointing: true, got true',
  });
});

describe('faults', () => {
  test('a missing file', async () => {
    await expect(loadRecipe('/nowhere/recipe.yaml')).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: 'recipe /nowhere/recipe.yaml: expected a YAML file, got no such file',
    });
    await expect(loadRecipe(__dirname)).rejects.toThrow(
      'expected a YAML file, got a folder. Write a recipe that names it, as model_name_or_path or',
    );
  });

  test('a text that is not UTF-8', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-recipe-'));
    const path = join(folder, 'latin1.yaml');
    writeFileSync(path, Buffer.from('# café\n', 'latin1'));
    await expect(loadRecipe(path)).rejects.toThrow(`${path} byte 5: expected UTF-8 text, got 0xe9.`);
    rmSync(folder, {recursive: true});
  });

  test('an unknown key names the nearest', () => {
    expect(fault(`${MODEL}lora_rnk: 8`)).toEqual({
      code: 'INVALID_CONFIG',
      message:
        'recipe.yaml:2:1 lora_rnk: expected a key of a recipe, got an unknown one. Did you mean lora_rank?',
    });
    expect(fault(`${MODEL}nonsense: 8`).message).toContain('docs/recipes.md lists all keys. Remove it.');
    expect(fault(`${MODEL}lora_rnk:`).message).toContain('Did you mean lora_rank?'); // also without a value
  });

  test('a wrong word names the nearest', () => {
    expect(fault(`${TRAIN}lr_scheduler_type: cosin`).message).toMatch(/got "cosin"\. Did you mean cosine\?$/);
  });

  test('the home folder is expanded in paths', () => {
    const {fit, model} = read(TRAIN, 'output_dir=~/out', 'adapter_name_or_path=a, ~/b', 'default_system=~/');
    expect(fit.outputDir).toBe(`${homedir()}/out`);
    expect(model.adapters).toEqual(['a', `${homedir()}/b`]);
  });

  test('values in other spellings', () => {
    expect(fault(MODEL, 'export_gguf_type=Q4_K_M').message).toContain('Did you mean q4_k_m?');
    expect(fault(MODEL, 'temperature=0').message).toContain('Set do_sample=false');
  });

  test("a name of PEFT's, TRL's or Keras's names ours", () => {
    expect(fault(`${MODEL}epochs: 3`).message).toContain('Did you mean num_train_epochs?');
    expect(fault(`${MODEL}finetuning_type: qlora`).message).toContain(
      'Set finetuning_type=lora and quantization_bit=4.',
    );
    for (const [theirs, ours] of PEERS_NAMES) {
      expect([theirs, isRecipeKey(theirs), ours, isRecipeKey(ours)]).toEqual([theirs, false, ours, true]);
    }
  });

  test('all are reported, in the order of the file', () => {
    const {message} = fault(
      `${MODEL}bf16: maybe\nfoo: 1\nquantization_bit: 3\nlora_rank: 0\nval_size: 1.5\nmax_steps: 0`,
    );
    expect(message.split('\n')).toEqual([
      'recipe.yaml:2:7 bf16: expected true or false, got "maybe"',
      expect.stringContaining('recipe.yaml:3:1 foo: expected a key of a recipe'),
      'recipe.yaml:4:19 quantization_bit: expected 4 or 8, got 3',
      'recipe.yaml:5:12 lora_rank: expected an integer from 1, got 0',
      'recipe.yaml:6:11 val_size: expected a whole number of examples, or a share below 1, got 1.5',
      'recipe.yaml:7:12 max_steps: expected an integer from 1, or -1, got 0',
    ]);
  });

  test('wrong values and contradictions are reported together, in the order of the file', () => {
    const {code, message} = fault(
      `${MODEL}do_train: true\nlora_rank: eight\nfp16: true\nbf16: true\nstage: sfx\nfoo: 1\nval_size: 0.1\n` +
        'mask_history: true\ntrain_on_prompt: true\nshift_attn: true\nreport_to: [wandb, mlflow]\n' +
        'load_best_model_at_end: true\nsave_strategy: epoch\nlr_scheduler_kwargs: {power: 2}',
    );
    expect(code).toBe('INVALID_CONFIG');
    expect(message.split('\n')).toEqual([
      'recipe.yaml:3:12 lora_rank: expected an integer from 1, got "eight"',
      'recipe.yaml:4:7 fp16: expected one of bf16 and fp16, got both',
      'recipe.yaml:6:8 stage: expected sft, pt, rm, ppo, dpo or kto, got "sfx". Did you mean sft?',
      expect.stringContaining('recipe.yaml:7:1 foo: expected a key of a recipe, got an unknown one.'),
      'recipe.yaml:8:11 val_size: expected a data set to hold examples out of, got none',
      'recipe.yaml:9:15 mask_history: expected false with train_on_prompt: true, got true',
      expect.stringContaining('recipe.yaml:11:13 shift_attn: expected '),
      expect.stringContaining(
        'recipe.yaml:12:12 report_to: expected none, all, tensorboard or csv, got wandb.',
      ),
      expect.stringContaining(
        'recipe.yaml:12:12 report_to: expected none, all, tensorboard or csv, got mlflow.',
      ),
      'recipe.yaml:13:25 load_best_model_at_end: expected save_strategy and eval_strategy to be the same, got epoch and no',
      'recipe.yaml:15:22 lr_scheduler_kwargs: expected none with lr_scheduler_type: linear, got power',
      'recipe.yaml dataset: expected a data set to train on, got none',
      'recipe.yaml output_dir: expected a folder, got none',
    ]);
  });

  test('a contradiction with a wrong value or a misspelled key is not reported', () => {
    expect(fault(`${TRAIN}fp16: true\nbf16: maybe`).message).toBe(
      'recipe.yaml:6:7 bf16: expected true or false, got "maybe"',
    );
    expect(fault(`${MODEL}do_train: true\noutput_dir: out\ndatset: bills`).message).toBe(
      'recipe.yaml:4:1 datset: expected a key of a recipe, got an unknown one. Did you mean dataset?',
    );
    expect(
      fault(`${TRAIN}lr_scheduler_type: no_such\nlr_scheduler_kwargs: {power: 2}`).message,
    ).not.toContain('lr_scheduler_kwargs');
  });

  test('a wrong value is reported with line and column, wherever it is', () => {
    const spaces = fc.integer({min: 1, max: 20}).map((count) => ' '.repeat(count));
    fc.assert(
      fc.property(
        fc.integer({min: 0, max: 30}),
        fc.integer({min: 0, max: 30}),
        spaces,
        (above, below, gap) => {
          const text = `${'# a comment\n'.repeat(above)}${MODEL}${'\n'.repeat(below)}lora_rank:${gap}"8"\n`;
          expect(fault(text).message).toBe(
            `recipe.yaml:${above + below + 2}:${11 + gap.length} lora_rank: expected an integer from 1, got "8"`,
          );
        },
      ),
    );
  });

  test.each([
    [
      'an alias for its own parent',
      'dataset: &a [x, *a]',
      /^recipe\.yaml:2:17: .* got \*a, an alias for its own parent/,
    ],
    [
      'aliases of aliases',
      `${Array.from({length: 9}, (_, i) => `k${i}: &a${i} [${Array(9).fill(i ? `*a${i - 1}` : 'x')}]`).join('\n')}`,
      /more repeated aliases than can be written out/,
    ],
    ['deep nesting', `a: ${'['.repeat(20_000)}`, /nested too deep/],
    [
      'thousands of keys',
      Array.from({length: 5000}, (_, i) => `key${i}: 1`).join('\n'),
      /at most 1000 keys, got 5001/,
    ],
    ['a text of megabytes', `a: ${'x'.repeat(2_000_000)}`, /at most 1048576 characters, got 2000\d+/],
    ['names that every object has', 'constructor: 1\n__proto__: 2', /2:1 constructor: .*\n.*3:1 __proto__: /],
  ])('%s', (_, text, message) => {
    const {code, message: got} = fault(`${MODEL}${text}`);
    expect(code).toBe('INVALID_CONFIG');
    expect(got).toMatch(message);
  });

  test('use_muon overrides optim', () => {
    expect(read(`${TRAIN}use_muon: true\nlearning_rate: 1e-3`).optimizer).toMatchObject({
      name: 'muon',
      learningRate: 1e-3,
    });
    expect(read(`${TRAIN}optim: adafactor`).optimizer.name).toBe('adafactor');
  });

  test('a text that is not a mapping', () => {
    expect(fault('- a\n').message).toBe(
      'recipe.yaml:1:1: expected lines of "key: value", got something else',
    );
    expect(fault(`${MODEL}x: [1\n`).message).toMatch(
      /^recipe\.yaml:\d+:\d+: expected YAML, got Flow sequence /,
    );
    expect(fault(`${MODEL}seed: 1\nseed: 2`).message).toBe(
      'recipe.yaml:3:1: expected YAML, got a key that is already set above',
    );
    expect(fault(`${MODEL}freeze_extra_modules: {a: 1, a: 2}`).message).toMatch(
      /:2:30: .* already set above/,
    );
    expect(fault('').message).toBe('recipe.yaml model_name_or_path: expected a value, got none');
  });

  test.each([
    ['pref_ftx: 1\npref_loss: kto_pair', 'pref_ftx: expected 0 with pref_loss: kto_pair'],
    [
      'dpo_label_smoothing: 0.1\npref_loss: ipo',
      'dpo_label_smoothing: expected 0 unless pref_loss is sigmoid',
    ],
    ['lora_dropout: 0.1', 'lora_dropout: expected 0 with stage: dpo'],
    ['packing: true', 'packing: expected false with stage: dpo, got true'],
    ['pref_bco_weight: 0.5', 'pref_bco_weight: expected 0, or no such key, got 0.5'],
    ['ref_model: other\npref_loss: simpo', 'ref_model: expected none with pref_loss: simpo'],
    ['ref_model_adapters: sft', 'ref_model_adapters: expected ref_model with it, got none'],
    [
      'ref_model: other\nref_model_quantization_bit: 4\nref_model_adapters: a, b',
      'expected one on a quantized',
    ],
  ])('stage dpo does not take %j', (keys, message) => {
    expect(fault(`${TRAIN}stage: dpo\n${keys}`).message).toContain(message);
  });

  test.each([
    ['', 'reward_model: expected a reward model with stage: ppo, got none'],
    ['reward_model: judge\nreward_model_type: api', 'reward_model: expected an address (http…)'],
    [
      'reward_model: judge\nfinetuning_type: full',
      'reward_model_type: expected full or api with finetuning_type: full',
    ],
    [
      'reward_model: judge\nreward_model_adapters: a',
      'reward_model_adapters: expected none with reward_model_type: lora',
    ],
    ['reward_model: judge\nval_size: 0.1', 'val_size: expected none with stage: ppo'],
    ['reward_model: judge\ndo_sample: false', 'do_sample: expected true with stage: ppo'],
    [
      'reward_model: judge\nref_model_adapters: a',
      'ref_model_adapters: expected ref_model with it, got none',
    ],
  ])('stage ppo does not take %j', (keys, message) => {
    expect(fault(`${TRAIN}stage: ppo\n${keys}`).message).toContain(message);
  });

  test.each([
    ['kto', 'lora_dropout: 0.1', 'lora_dropout: expected 0 with stage: kto'],
    ['kto', 'do_predict: true\nval_size: 0.1', 'do_predict: expected false with stage: kto, got true'],
    ['kto', 'packing: true', 'packing: expected false with stage: kto, got true'],
    ['kto', 'ref_model_adapters: x', 'ref_model_adapters: expected ref_model with it, got none'],
    ['rm', 'packing: true', 'packing: expected false with stage: rm, got true'],
    ['rm', 'predict_with_generate: true', 'predict_with_generate: expected false with stage: rm, got true'],
  ])('stage %s does not take %j', (stage, keys, message) => {
    expect(fault(`${TRAIN}stage: ${stage}\n${keys}`).message).toContain(message);
  });

  test('LLaMA-Factory’s recipes for stages rm and kto are read as they are', () => {
    const common =
      'do_train: true\nfinetuning_type: lora\nlora_target: all\ntemplate: llama3\ncutoff_len: 2048\nmax_samples: 1000\n' +
      'overwrite_cache: true\npreprocessing_num_workers: 16\noutput_dir: saves/lora\nlogging_steps: 10\nsave_steps: 500\n' +
      'plot_loss: true\noverwrite_output_dir: true\nper_device_train_batch_size: 1\ngradient_accumulation_steps: 8\n' +
      'num_train_epochs: 3.0\nlr_scheduler_type: cosine\nwarmup_ratio: 0.1\nbf16: true\nddp_timeout: 180000000\n';
    const kto = read(
      `${MODEL}stage: kto\npref_beta: 0.2\nkto_rejected_weight: 0.5\ndataset: kto_en_demo\nlearning_rate: 5.0e-6\n${common}` +
        'val_size: 0.1\nper_device_eval_batch_size: 1\neval_strategy: steps\neval_steps: 500\n',
    );
    expect(kto.kto).toEqual({beta: 0.2, ftx: 0, chosenWeight: 1, rejectedWeight: 0.5});
    const rm = read(
      `${MODEL}trust_remote_code: true\nstage: rm\nlora_rank: 8\ndataset: dpo_en_demo\nlearning_rate: 1.0e-4\n${common}`,
    );
    expect(rm.data.stage).toBe('rm');
  });

  test.each<[string, string]>([
    [`${MODEL}do_train: true\noutput_dir: out`, 'dataset: expected a data set to train on'],
    [`${MODEL}do_train: true\ndataset: bills`, 'output_dir: expected a folder'],
    [`${TRAIN}do_eval: true`, 'do_eval: expected data to evaluate on'],
    [`${TRAIN}eval_strategy: steps`, 'eval_strategy: expected data to evaluate on'],
    [`${TRAIN}eval_dataset: bills\ndo_predict: true`, 'do_predict: expected predict_with_generate: true'],
    [`${TRAIN}eval_dataset: bills\nval_size: 0.1`, 'val_size: expected none with eval_dataset'],
    [`${TRAIN}stage: pt\ntrain_on_prompt: true`, 'train_on_prompt: expected false with stage: pt'],
    [`${TRAIN}mask_history: true\ntrain_on_prompt: true`, 'mask_history: expected false'],
    [`${TRAIN}interleave_probs: 0.5,0.5`, 'interleave_probs: expected an interleaving mix_strategy'],
    [
      `${TRAIN}interleave_probs: 0.5,0.5\nmix_strategy: interleave_under`,
      'interleave_probs: expected 1 numbers',
    ],
    [`${TRAIN}interleave_probs: 0.5,x`, 'interleave_probs: expected numbers from 0 to 1'],
    [`${TRAIN}streaming: true`, 'max_steps: expected a number with streaming: true'],
    [`${TRAIN}streaming: true\nmax_steps: 5\nmax_samples: 5`, 'max_samples: expected none with streaming'],
    [`${TRAIN}streaming: true\nmax_steps: 5\nval_size: 0.1`, 'val_size: expected a number of examples'],
    [`${TRAIN}finetuning_type: full\nuse_dora: true`, 'use_dora: expected none with finetuning_type full'],
    [`${TRAIN}pissa_init: true\nquantization_bit: 4`, 'pissa_init: expected false on a quantized base'],
    [`${TRAIN}pissa_convert: true`, 'pissa_convert: expected pissa_init: true with it'],
    [
      `${TRAIN}pissa_init: true\npissa_convert: true\nuse_dora: true`,
      'pissa_convert: expected false with use_dora',
    ],
    [
      `${TRAIN}finetuning_type: full\nquantization_bit: 4`,
      'quantization_bit: expected none with finetuning_type full',
    ],
    [
      `${MODEL}quantization_bit: 4\nadapter_name_or_path: a,b`,
      'adapter_name_or_path: expected one on a quantized base',
    ],
    [`${MODEL}bf16: true\nfp16: true`, 'fp16: expected one of bf16 and fp16'],
    [
      `${TRAIN}val_size: 0.1\neval_strategy: epoch\nload_best_model_at_end: true`,
      'load_best_model_at_end: expected save_strategy and eval_strategy to be the same, got steps and epoch',
    ],
    [
      `${TRAIN}val_size: 0.1\neval_strategy: steps\neval_steps: 40\nsave_steps: 100\nload_best_model_at_end: true`,
      'load_best_model_at_end: expected save_steps to be a multiple of eval_steps, got 100 and 40',
    ],
    [`${TRAIN}early_stopping_steps: 3`, 'early_stopping_steps: expected an eval_strategy'],
    [
      `${TRAIN}val_size: 0.1\nsave_strategy: best`,
      'save_strategy: expected an eval_strategy with save_strategy: best',
    ],
    [`${TRAIN}use_dft_loss: true\nuse_eaft_loss: true`, 'use_dft_loss: expected one of use_dft_loss, '],
    [`${TRAIN}stage: pt\nuse_eaft_loss: true`, 'use_eaft_loss: expected false with stage: pt, got true'],
    [
      `${TRAIN}stage: dpo\nneftune_noise_alpha: 5`,
      'neftune_noise_alpha: expected none with stage: dpo, got 5',
    ],
    [
      `${TRAIN}use_asft_loss: true\npissa_init: true`,
      'pissa_init: expected ref_model with it where the model is compared with a reference',
    ],
    [
      `${TRAIN}use_asft_loss: true\nref_model_adapters: a`,
      'ref_model_adapters: expected ref_model with it, got none',
    ],
    [`${TRAIN}eval_generate_samples: 5`, 'eval_generate_samples: expected predict_with_generate: true'],
    [
      `${TRAIN}metric_for_best_model: predict_rouge-l`,
      'metric_for_best_model: expected loss, perplexity, got predict_rouge-l. Set predict_with_generate: true',
    ],
    [`${TRAIN}metric_for_best_model: f1`, 'metric_for_best_model: expected loss, perplexity, bleu-4, '],
    [`${MODEL}report_to: wandb`, 'report_to: expected none, all, tensorboard or csv, got wandb'],
    [`${MODEL}export_legacy_format: true`, 'export_legacy_format: expected false'],
    [
      `${MODEL}export_gguf_type: q8_0`,
      'export_gguf_type: expected export_format: gguf with it, got safetensors',
    ],
    [`${MODEL}lr_scheduler_kwargs: {cycles: 2}`, 'lr_scheduler_kwargs: expected other keys, got cycles'],
    [
      `${TRAIN}eval_strategy: no\nevaluation_strategy: no`,
      'evaluation_strategy: expected eval_strategy once',
    ],
  ])('%j', (text, message) => {
    expect(fault(text).message).toContain(message);
  });
});

describe('foreign keys', () => {
  test('are in one table each, and not in ours', () => {
    const ours = Object.keys(recipeSchema.shape);
    const all = [...ours, ...IGNORED_KEYS.keys(), ...REFUSED_KEYS.keys(), ...FORMER_NAMES.keys()];
    expect(all.filter((key, index) => all.indexOf(key) !== index)).toEqual([]);
    for (const now of FORMER_NAMES.values()) expect(ours).toContain(now);
  });

  test('one without a meaning is ignored, with the reason', () => {
    expect(read(`${MODEL}flash_attn: fa2`).ignored).toEqual(
      new Map([['flash_attn', 'it chooses among kernels of PyTorch']]),
    );
  });

  test('one that would change the result is refused, unless it is off', () => {
    expect(fault(`${MODEL}moe_aux_loss_coef: 5`)).toEqual({
      code: 'UNSUPPORTED',
      message:
        'recipe.yaml:2:20 moe_aux_loss_coef: expected 0, or no such key, got 5. No model here has experts. Remove the key.',
    });
    expect([...read(`${MODEL}use_galore: false\nnum_beams: 1\nshift_attn: null`).ignored.keys()]).toEqual([
      'use_galore',
      'num_beams',
      'shift_attn',
    ]);
  });
});

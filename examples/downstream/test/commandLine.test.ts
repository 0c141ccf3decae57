import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {tmpdir} from 'node:os';
import {dirname, join} from 'node:path';
import {after, before, test} from 'node:test';
import {fileURLToPath} from 'node:url';
import {Tokenizer, useBackend} from 'tfjs-lora';
import {Arcee, VeRADense} from '../src/index.ts';
import {TINY} from './tinyModel.ts';

/* Uses the parts of this package by their names, on the command line. */

const library = dirname(createRequire(import.meta.url).resolve('tfjs-lora/package.json'));
const extras = fileURLToPath(new URL('../src/index.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-extras-'));
const recipe = join(folder, 'recipe.json'); // JSON is YAML

function commandLine(...args: string[]): string {
  const main = join(library, 'dist/cli/main.js');
  const run = spawnSync(process.execPath, [main, '--backend', 'cpu', ...args], {
    cwd: folder,
    encoding: 'utf8',
  });
  assert.equal(run.status, 0, `${args.join(' ')}\n${run.stdout}\n${run.stderr}`);
  return run.stdout;
}
const jsonIn = (path: string) => JSON.parse(readFileSync(join(folder, path), 'utf8'));

before(async () => {
  await useBackend('cpu');
  const tokenizer = await Tokenizer.fromFolder(join(library, 'examples/quickstart/model'));
  const model = Arcee.fromConfig(
    {...TINY, vocabSize: tokenizer.vocabSize, maxPositionEmbeddings: 64},
    {seed: 1},
  );
  model.tokenizer = tokenizer;
  await model.save(join(folder, 'model'));
  model.applyLoRA({layerClass: VeRADense, rank: 2});
  await model.saveAdapter(join(folder, 'vera'));
  model.dispose();
  const records = [1, 2, 3, 4].map((n) => ({instruction: 'Count.', input: `${n}`, output: `${n + 1}`}));
  writeFileSync(join(folder, 'numbers.json'), JSON.stringify(records));
  writeFileSync(join(folder, 'dataset_info.json'), JSON.stringify({numbers: {file_name: 'numbers.json'}}));
  writeFileSync(
    recipe,
    JSON.stringify({
      ...{model_name_or_path: 'model', quantization_bit: 4, quantization_method: 'grouped-int4'},
      ...{do_train: true, dataset: 'numbers', dataset_dir: '.', template: 'question_answer', cutoff_len: 48},
      ...{output_dir: 'adapter', optim: 'tiger', max_steps: 2, per_device_train_batch_size: 2},
    }),
  );
});
after(() => rmSync(folder, {recursive: true}));

test('a recipe trains with the model family, quantizer, template and optimizer', () => {
  const printed = commandLine('train', recipe, '--import', extras);
  assert.match(printed, /^train_loss +\d/m);
  assert.ok(printed.includes(`--import ${extras} chat`), printed); // the commands to use it
  assert.equal(jsonIn('adapter/adapter_config.json').peft_type, 'LORA');
});

test('a recipe trains a kind of adapter', () => {
  const keys = ['finetuning_type=seeded_vera', 'output_dir=vera-trained', 'lora_rank=3', 'max_steps=1'];
  commandLine('train', recipe, ...keys, '--import', extras);
  const {peft_type, r} = jsonIn('vera-trained/adapter_config.json');
  assert.deepEqual([peft_type, r], ['SEEDED_VERA', 3]);
});

test('a model is quantized, and the adapter of another kind merged', () => {
  commandLine('quantize', 'model', 'int4', '--type', 'grouped-int4', '--import', extras);
  assert.equal(jsonIn('int4/config.json').quantization_config.quant_method, 'grouped-int4');
  const merge = [
    'model_name_or_path=model',
    'adapter_name_or_path=vera',
    'export_dir=merged',
    'do_train=false',
  ];
  const plain = 'quantization_bit=null quantization_method=null'.split(' ');
  assert.ok(commandLine('export', recipe, ...merge, ...plain, '--import', extras).includes('vera merged in'));
  assert.equal(jsonIn('merged/config.json').model_type, 'arcee');
});

test('without the package, the names are refused', () => {
  const main = join(library, 'dist/cli/main.js');
  const {status, stderr} = spawnSync(process.execPath, [main, 'train', recipe], {
    cwd: folder,
    encoding: 'utf8',
  });
  assert.equal(status, 2);
  assert.match(
    stderr,
    /quantization_method: expected bitsandbytes, bnb or the name of a registered quantizer/,
  );
});

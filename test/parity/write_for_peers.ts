/**
 * Writes adapters, merged models and models with this library, each with the logits it computes, for
 * check_in_peers.py to load in PEFT and transformers: `npx tsx test/parity/write_for_peers.ts <folder>`.
 */
import {mkdirSync, readdirSync, writeFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {CausalLM} from '../../models/causalLM.ts';
import type {InitializeLoRAOptions} from '../../models/peft/initialization/initializeLoRAOptions.ts';
import type {LoRAOptions} from '../../models/peft/loraOptions.ts';
import {writeSafetensors} from '../../quant/safetensors/writeSafetensors.ts';
import {AutoModelForCausalLM, applyLoRA, Llama, saveAdapter} from '../../src/index.ts';
import {exportModel} from '../../src/tools/recipes/exportModel.ts';
import {useBackend} from '../../src/training/backends/useBackend.ts';
import {FIXTURES, type GoldenCase, type GoldenInputs, goldenCases, logitsOf, readJson} from './golden.ts';
import {KERAS_FIXTURES, kerasNetwork} from './keras/kerasNetwork.ts';

/** The part of a task that check_in_peers.py reads. Folders are absolute or relative to the task's. */
interface Task {
  model?: string;
  /** A text for which the peer's tokenizer must give the same ids. */
  text?: {text: string; ids: number[]};
  base?: string;
  adapter?: string;
  tolerance: number;
}

const out = resolve(process.argv[2] ?? 'for-peers');

async function writeTask(name: string, task: Task, model: CausalLM, inputs: GoldenInputs): Promise<void> {
  const folder = join(out, name);
  mkdirSync(folder, {recursive: true});
  const {inputIds, attentionMask, positionIds} = inputs;
  const fed = Object.entries({input_ids: inputIds, attention_mask: attentionMask, position_ids: positionIds});
  const given = Object.fromEntries(fed.filter(([, value]) => value !== undefined));
  writeFileSync(join(folder, 'check.json'), JSON.stringify({...task, inputs: given}));
  const logits = logitsOf(model, inputs);
  const data = new Uint8Array((await logits.data()).slice().buffer as ArrayBuffer);
  await writeSafetensors(join(folder, 'expected.safetensors'), [
    {name: 'logits', dtype: 'F32', shape: logits.shape, data},
  ]);
  logits.dispose();
}

/** Moves every trained weight a little, as training does. */
function stir(model: Llama): void {
  let seed = 1;
  for (const variable of model.trainableParameters().values()) {
    tf.tidy(() => variable.assign(variable.add(tf.randomNormal(variable.shape, 0, 0.05, 'float32', seed++))));
  }
}

/** Changes every trained weight: A and B at random, magnitudes from their initial values. */
function randomize(model: CausalLM): void {
  let seed = 1;
  for (const [key, variable] of model.trainableParameters()) {
    tf.tidy(() => {
      const noise = tf.randomNormal(variable.shape, 0, 0.2, 'float32', seed++);
      variable.assign(key.includes('magnitude') ? variable.mul(noise.add(1)) : noise);
    });
  }
}

/** Writes a model, an adapter for it, and the two merged. */
async function writeModel(
  name: string,
  base: string,
  inputs: GoldenInputs,
  lora: LoRAOptions,
): Promise<void> {
  const model = await AutoModelForCausalLM.fromPretrained(base);
  await model.save(join(out, `${name}-saved`, 'model'));
  await writeTask(`${name}-saved`, {model: 'model', tolerance: 1e-5}, model, inputs);

  model.applyLoRA(lora);
  randomize(model);
  await model.saveAdapter(join(out, `${name}-adapter`, 'adapter'));
  await writeTask(`${name}-adapter`, {base, adapter: 'adapter', tolerance: 1e-4}, model, inputs);

  model.mergeLoRA();
  await model.save(join(out, `${name}-merged`, 'model'));
  await writeTask(`${name}-merged`, {model: 'model', tolerance: 1e-4}, model, inputs);
  model.dispose();
}

async function main(): Promise<void> {
  await useBackend('wasm');
  for (const {model, inputs, name, lora} of goldenCases((golden) => golden.lora !== undefined))
    await writeModel(name, join(FIXTURES, model), inputs, lora as LoRAOptions);
  const families = join(FIXTURES, '../families/fixtures');
  for (const family of readdirSync(families).filter((name) => !name.endsWith('.json'))) {
    const base = join(families, family, 'model');
    const {inputs} = readJson<{inputs: GoldenInputs}>(`../families/fixtures/${family}/manifest.json`);
    await writeModel(family, base, inputs, {rank: 4, alpha: 8});
  }

  for (const type of ['nf4', 'fp4', 'int8'] as const) {
    const {inputs} = readJson<{inputs: GoldenInputs}>('../quantized/fixtures/nf4-double/manifest.json');
    const quantization = {type, doubleQuant: type === 'nf4'};
    const model = await Llama.fromPretrained(join(FIXTURES, '../quantized/fixtures/base'), {
      dtype: 'float32',
      quantization,
    });
    await model.save(join(out, `${type}-saved`, 'model'));
    // bitsandbytes also rounds the inputs of int8 weights to int8.
    const tolerance = type === 'int8' ? 0.1 : 1e-5;
    await writeTask(`${type}-saved`, {model: 'model', tolerance}, model, inputs);
    model.applyLoRA({rank: 4, alpha: 8});
    randomize(model);
    await model.saveAdapter(join(out, `${type}-adapter`, 'adapter'));
    const task = {
      base: `../${type}-saved/model`,
      adapter: 'adapter',
      tolerance: type === 'int8' ? 0.1 : 1e-4,
    };
    await writeTask(`${type}-adapter`, task, model, inputs);
    model.dispose();
  }

  await writeExports();
  await writeNetwork();
  await writeSettings();

  const {inputs} = goldenCases(({name}) => name === 'untied-mha')[0];
  const scratch = Llama.fromConfig(
    {
      vocabSize: 101,
      hiddenSize: 32,
      intermediateSize: 43,
      numHiddenLayers: 2,
      numAttentionHeads: 4,
      numKeyValueHeads: 2,
      maxPositionEmbeddings: 64,
    },
    {seed: 3},
  );
  await scratch.save(join(out, 'from-config', 'model'));
  await writeTask('from-config', {model: 'model', tolerance: 1e-5}, scratch, inputs);
  scratch.dispose();
}

/** Adapters with trained biases, replicated layers and initializations that measure batches. */
async function writeSettings(): Promise<void> {
  const biased = goldenCases(({name}) => name === 'biases')[0];
  const tied = goldenCases(({name}) => name === 'tied-gqa-llama3')[0];
  const settings: [string, GoldenCase, LoRAOptions, Partial<InitializeLoRAOptions>?][] = [
    ['lora-bias', biased, {loraBias: true, targetModules: ['q_proj', 'down_proj']}],
    ['bias-all', biased, {bias: 'all', targetModules: ['v_proj']}],
    ['bias-lora-only', biased, {bias: 'lora_only', targetModules: ['v_proj', 'up_proj']}],
    ['target-parameters', biased, {targetParameters: ['q_proj.weight', 'layers.1.mlp.up_proj.weight']}],
    [
      'replication',
      tied,
      {
        layerReplication: [
          [0, 2],
          [1, 2],
        ],
        targetModules: ['q_proj', 'down_proj'],
      },
    ],
    ['eva', tied, {targetModules: ['q_proj', 'v_proj', 'up_proj']}, {method: 'eva'}],
    ['corda', tied, {targetModules: ['q_proj', 'v_proj']}, {method: 'corda'}],
    ['lora-ga', tied, {targetModules: ['q_proj', 'v_proj']}, {method: 'lora_ga'}],
  ];
  for (const [name, {model: from, inputs}, options, initialization] of settings) {
    const base = join(FIXTURES, from);
    const model = await Llama.fromPretrained(base);
    model.applyLoRA({rank: 4, baseModelNameOrPath: 'base', ...options});
    if (initialization) {
      await model.initializeLoRA({batches: [inputs], ...initialization} as InitializeLoRAOptions);
      stir(model);
    } else randomize(model);
    const folder = `setting-${name}`;
    // PEFT cannot load what it changed the base for by data, except as plain LoRA.
    const convertToLoRA = /corda|lora_ga/.test(initialization?.method ?? '');
    await model.saveAdapter(join(out, folder, 'adapter'), 'default', {convertToLoRA});
    await writeTask(folder, {base, adapter: 'adapter', tolerance: 1e-4}, model, inputs);
    model.dispose();
  }
}

/** Exports as `tfjs-lora export` does: two adapters in order, in shards, with tokenizer, generation config and card. */
async function writeExports(): Promise<void> {
  const base = resolve('examples/quickstart/model');
  const folder = join(out, 'exported');
  const adapters: Parameters<Llama['applyLoRA']>[0][] = [
    {rank: 8, targetModules: 'all-linear'},
    {rank: 4, targetModules: ['q_proj', 'v_proj', 'down_proj'], useDoRA: true},
  ];
  const paths = adapters.map((_, index) => join(folder, `adapter-${index}`));
  for (const [index, options] of adapters.entries()) {
    const model = await Llama.fromPretrained(base);
    model.applyLoRA({...options, baseModelNameOrPath: 'a/base'});
    randomize(model);
    await model.saveAdapter(paths[index]);
    model.dispose();
  }
  const exportDir = join(folder, 'model');
  const {files} = await exportModel({model: base, adapters: paths, exportDir, exportSizeGB: 1e-3});
  if (files.length < 2) throw new Error(`expected several shards, got ${files}`);
  const merged = await Llama.fromPretrained(exportDir);
  const text = '<|start_header_id|>user<|end_header_id|>\n\nWho runs the program? $1,000, naïve 我们';
  const ids = merged.tokenizer!.encode(text);
  await writeTask('exported', {model: 'model', tolerance: 1e-4, text: {text, ids}}, merged, {
    inputIds: [ids],
    labels: [ids],
  });
  merged.dispose();
}

/** An adapter of a Keras model, for the PyTorch network of keras/network.py. */
async function writeNetwork(): Promise<void> {
  const folder = join(out, 'keras-network');
  const adapted = applyLoRA(kerasNetwork(), {
    rank: 3,
    targetModules: ['fc1', 'fc3'],
    rankPattern: {fc3: 2},
    useDoRA: true,
    useRsLoRA: true,
  });
  const x = tf.randomNormal([5, 10], 0, 1, 'float32', 9);
  for (const [i, weight] of adapted.trainableWeights.entries()) {
    const noise = tf.randomNormal(weight.shape as number[], 1, 0.2, 'float32', i);
    weight.write(noise);
  }
  await saveAdapter(adapted, join(folder, 'adapter'));
  const tensors = Object.entries({x, logits: adapted.predict(x) as tf.Tensor});
  await writeSafetensors(
    join(folder, 'expected.safetensors'),
    tensors.map(([name, tensor]) => ({
      name,
      dtype: 'F32',
      shape: tensor.shape as number[],
      data: new Uint8Array(tensor.dataSync().slice().buffer as ArrayBuffer),
    })),
  );
  const network = join(KERAS_FIXTURES, 'base.safetensors');
  writeFileSync(join(folder, 'check.json'), JSON.stringify({network, adapter: 'adapter', tolerance: 1e-5}));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});

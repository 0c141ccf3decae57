/**
 * Saves in a separate process, which dies while saving: `dyingSave.ts <tokenizer> <folder> <what> <die at>`, where
 * `what` is model, adapter or export.
 *
 * Each is saved over an earlier one that also loads, with other settings and files, so that a mixture of both would
 * load and be wrong. With a number, the process kills itself at that change of a file, or in the middle of a write.
 * With `all`, it stops the disk at each change in turn, without dying, and prints what the folder then loads as, one line
 * each: `earlier`, `new`, `nothing`, or anything else; then, after saving again, the files in the folder.
 */
import fs from 'node:fs';
import {syncBuiltinESMExports} from 'node:module';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {Tokenizer} from '../../models/tokenizer.ts';
import {Llama} from '../../src/index.ts';
import {exportModel} from '../../src/tools/recipes/exportModel.ts';
import {stirAdapter, tinyIds, tinyLlama} from './tinyLlama.ts';

type What = 'model' | 'adapter' | 'export';
const [tokenizerFolder, folder, what, dieAt] = process.argv.slice(2) as [string, string, What, string];
const SMALL = {vocabSize: 2000, numHiddenLayers: 1};

const disk = fs as unknown as Record<string, (...args: unknown[]) => unknown>;
const CHANGES = ['openSync', 'writeSync', 'fsyncSync', 'renameSync', 'rmSync', 'mkdirSync'];
const real = Object.fromEntries(CHANGES.map((name) => [name, disk[name]]));
let change = 0;
/** Called at each change of a file. */
let before: (name: string, args: unknown[]) => void = () => {};
for (const name of CHANGES) {
  disk[name] = (...args) => {
    change++;
    before(name, args);
    return real[name](...args);
  };
}
syncBuiltinESMExports();

/** Saves the earlier (0) or the new (1) version. */
async function save(target: string, version: 0 | 1): Promise<void> {
  if (what === 'export') {
    const [exportSizeGB, template] = version === 0 ? [2e-6, 'alpaca'] : [1, undefined];
    const adapters = version === 0 ? [] : [join(folder, 'source-adapter')];
    await exportModel({model: join(folder, 'source'), adapters, exportDir: target, exportSizeGB, template});
    return;
  }
  const model = tinyLlama({...SMALL, ropeTheta: version === 0 ? 100 : 10_000}, {seed: version});
  if (what === 'model') {
    if (version === 1) model.tokenizer = await Tokenizer.fromFolder(tokenizerFolder);
    if (version === 0) model.generationConfig = {eosTokenId: 3};
    await model.save(target, {maxShardBytes: version === 0 ? 3000 : 20_000});
  } else {
    model.applyLoRA({rank: 2, alpha: version === 0 ? 2 : 16, seed: version});
    stirAdapter(model, 'default', version + 1);
    await model.saveAdapter(target);
  }
  model.dispose();
}

/** Returns what a folder loads as, in full; `nothing` when it is refused because its first file is missing. */
async function contentsOf(target: string): Promise<string> {
  const base = what === 'adapter' ? tinyLlama(SMALL, {seed: 7}) : undefined;
  let model = base;
  try {
    if (base) await base.loadAdapter(target);
    else model = (await Llama.fromPretrained(target)) as LlamaForCausalLM;
    const logits = tf.tidy(() => model!.predict(tinyIds).dataSync().slice(0, 40));
    const {tokenizer, generationConfig} = model!;
    return JSON.stringify([...logits, generationConfig, tokenizer?.files.config]);
  } catch (error) {
    const {code, message} = error as {code: string; message: string};
    const first = what === 'adapter' ? 'adapter_config.json' : 'config.json';
    return code === 'FILE_NOT_FOUND' && message.includes(join(target, first)) ? 'nothing' : message;
  } finally {
    model?.dispose();
  }
}

async function makeSources(): Promise<void> {
  const base = tinyLlama(SMALL, {dtype: 'bfloat16'});
  base.tokenizer = await Tokenizer.fromFolder(tokenizerFolder);
  await base.save(join(folder, 'source'));
  base.applyLoRA({rank: 1});
  stirAdapter(base);
  await base.saveAdapter(join(folder, 'source-adapter'));
  base.dispose();
}

async function stopAtEach(): Promise<void> {
  const [earlier, later] = [join(folder, 'earlier'), join(folder, 'later')];
  await save(earlier, 0);
  await save(later, 1);
  const names = new Map([
    [await contentsOf(earlier), 'earlier'],
    [await contentsOf(later), 'new'],
    ['nothing', 'nothing'],
  ]);
  for (let at = 1, isDone = false; !isDone; at++) {
    const target = join(folder, 'target');
    fs.cpSync(earlier, target, {recursive: true});
    change = 0;
    before = (name, args) => {
      if (change < at) return;
      if (change === at && name === 'writeSync')
        real.writeSync(args[0], (args[1] as Uint8Array).subarray(0, 5));
      throw new Error('the disk is gone');
    };
    isDone = await save(target, 1).then(
      () => true,
      () => false,
    );
    before = () => {};
    const contents = await contentsOf(target);
    console.log(`${at} ${names.get(contents) ?? contents}`);
    await save(target, 1);
    const [got, expected] = [target, later].map((path) => fs.readdirSync(path).sort().join());
    if (got !== expected) console.log(`after ${at}: ${got}`);
    if (names.get(await contentsOf(target)) !== 'new') console.log(`after ${at}: not the new one`);
    fs.rmSync(target, {recursive: true});
  }
}

async function main(): Promise<void> {
  await tf.setBackend('cpu');
  if (what === 'export' && !fs.existsSync(join(folder, 'source'))) await makeSources();
  if (dieAt === 'all') return stopAtEach();
  const target = join(folder, 'target');
  if (!fs.existsSync(target)) await save(target, 0);
  change = 0;
  before = (name, args) => {
    if (change !== Number(dieAt)) return;
    if (name === 'writeSync') real.writeSync(args[0], (args[1] as Uint8Array).subarray(0, 5));
    process.kill(process.pid, 'SIGKILL');
  };
  await save(target, 1);
}
main();

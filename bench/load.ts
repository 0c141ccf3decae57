/**
 * Measures how fast a model loads, and how much memory that takes beyond the model itself.
 *
 *   npx tsx bench/load.ts [preset, default "small"] [backend, default wasm] [--quantization nf4|fp4|int8] [--json FILE]
 *
 * Writes a random bfloat16 folder of that shape to a temporary place, in shards, and loads it in this process, with
 * `--quantization` while quantizing it (4-bit types doubly). Prints the time, the model's size, its largest tensor, and
 * the peak of the process's resident memory, in total and above its start. The peak should be at most the model and one
 * tensor, apart from variations of the runtime itself.
 */
import {execFileSync} from 'node:child_process';
import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';
import {type LlamaConfigArgs, presets} from '../models/index.ts';
import {Llama, useBackend} from '../src/index.ts';
import {writeRandomFolder} from './randomFolder.ts';

const small: LlamaConfigArgs = {
  ...presets['llama-3.2-1b'],
  vocabSize: 32000,
  hiddenSize: 1024,
  intermediateSize: 4096,
  numHiddenLayers: 8,
  numAttentionHeads: 16,
};

/** Writes the folder in a separate process, whose memory does not count. */
function writeApart(folder: string, shape: string): void {
  const script = fileURLToPath(import.meta.url);
  execFileSync(process.execPath, [...process.execArgv, script, shape, '--write', folder], {stdio: 'inherit'});
}

async function main(): Promise<void> {
  const {values: options, positionals} = parseArgs({
    options: {quantization: {type: 'string'}, write: {type: 'string'}, json: {type: 'string'}},
    allowPositionals: true,
  });
  const [shape = 'small', backend = 'wasm'] = positionals;
  if (options.write) {
    await writeRandomFolder(options.write, shape === 'small' ? small : shape);
    return;
  }
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-load-'));
  try {
    writeApart(folder, shape);
    const report = await useBackend(backend as 'wasm');
    global.gc?.();
    const before = process.memoryUsage().rss;
    const begun = performance.now();
    const type = options.quantization;
    const model = await Llama.fromPretrained(folder, {
      ...(type && {quantization: {type, doubleQuant: type !== 'int8'}}),
    });
    const seconds = (performance.now() - begun) / 1000;
    const peak = process.resourceUsage().maxRSS * 1024;
    const parameters = [...model.namedParameters().values()];
    const quantized = parameters.filter(({storage}) => storage === 'quantized');
    const largest = Math.max(...parameters.map(({size}) => 2 * size));
    const megabytes = (count: number) => Math.round(count / 1e6);
    const result = {
      shape,
      backend: report.backend,
      quantization: type ?? 'none',
      parameters: model.countParams(),
      modelMB: megabytes(model.byteLength),
      quantizedMB: megabytes(quantized.reduce((sum, {byteLength}) => sum + byteLength, 0)),
      largestTensorMB: megabytes(largest),
      peakMB: megabytes(peak),
      peakAboveStartMB: megabytes(peak - before),
      allowedAboveStartMB: megabytes(model.byteLength + largest),
      seconds: Number(seconds.toFixed(2)),
      fileMegabytesPerSecond: megabytes((2 * model.countParams()) / seconds),
    };
    console.table(result);
    console.log(JSON.stringify(result));
    if (options.json) writeFileSync(options.json, JSON.stringify(result, null, 2));
  } finally {
    rmSync(folder, {recursive: true, force: true});
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

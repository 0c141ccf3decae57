import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {declareQuantized} from '../models/quantization.ts';
import {countParameters} from '../models/summary.ts';
import {estimateMemory, Llama, useBackend} from '../src/index.ts';
import {withTables} from './withTables.ts';

/*
 * Makes the tables of memory in experiment.md and of parameters in choosing.md. `npm run memory-tables` writes them; a
 * test checks that they are current.
 */

const MODELS = {
  'Llama 3.2 1B': 'llama-3.2-1b',
  'Llama 3.2 3B': 'llama-3.2-3b',
  'Llama 3.1 8B': 'llama-3.1-8b',
} as const;
type Preset = (typeof MODELS)[keyof typeof MODELS];

const LENGTH = 2048;
const CARDS = [8, 12, 16, 24, 40, 80]; // GiB
/** Memory that CUDA and its libraries take outside TensorFlow's pool. */
const RESERVED = 2 ** 30;
/** Estimates are within 10 % of what a card uses. */
const MARGIN = 1.1;

/** Returns both pages as they should be. */
export async function memoryTables(root: string): Promise<Record<string, string>> {
  await useBackend('cpu');
  tf.registerKernel({kernelName: 'DecoderStack', backendName: 'cpu', kernelFunc: () => []}); // as on a card
  try {
    const pages = {
      'docs/experiment.md': {memory: memoryTable(), cards: cardTable()},
      'docs/choosing.md': {parameters: parameterTable()},
    };
    return Object.fromEntries(
      Object.entries(pages).map(([file, tables]) => [file, withTables(join(root, file), tables)]),
    );
  } finally {
    tf.unregisterKernel('DecoderStack', 'cpu');
  }
}

/** Returns a function that estimates the bytes of a step of a model with an adapter of rank 8. */
function stepOf(preset: Preset, isQuantized: boolean) {
  const model = Llama.fromConfig(preset, {dtype: 'bfloat16', allocate: false});
  if (isQuantized) declareQuantized(model, {type: 'nf4', doubleQuant: true});
  model.applyLoRA({rank: 8, targetModules: 'all-linear'});
  return (batchSize: number, gradientCheckpointing: boolean | 'offload' = true): number =>
    estimateMemory(model, {batchSize, sequenceLength: LENGTH, gradientCheckpointing}).total;
}

/** Makes a table with a row for each model, in 16 and in 4 bits. */
function tableOf(head: string[], cells: (bytesOf: ReturnType<typeof stepOf>) => string[]): string {
  const rows = Object.entries(MODELS).flatMap(([name, preset]) => [
    [`${name}, LoRA`, ...cells(stepOf(preset, false))],
    [`${name}, QLoRA nf4`, ...cells(stepOf(preset, true))],
  ]);
  return markdown(head, rows);
}

function markdown(head: string[], rows: string[][]): string {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

function memoryTable(): string {
  const head = ['', '1 × 2048', '4 × 2048', '4 × 2048, offloaded', '4 × 2048, no checkpointing'];
  return tableOf(head, (bytesOf) =>
    [bytesOf(1), bytesOf(4), bytesOf(4, 'offload'), bytesOf(4, false)].map((bytes) =>
      (bytes / 2 ** 30).toFixed(1),
    ),
  );
}

function cardTable(): string {
  return tableOf(['', ...CARDS.map((size) => `${size} GB`)], (bytesOf) => {
    const batches = [64, 32, 16, 8, 4, 2, 1].map((size) => ({
      size,
      bytes: MARGIN * bytesOf(size) + RESERVED,
    }));
    return CARDS.map((card) => `${batches.find(({bytes}) => bytes <= card * 2 ** 30)?.size ?? '–'}`);
  });
}

function parameterTable(): string {
  const columns = [
    {rank: 8},
    {rank: 16},
    {rank: 64},
    {rank: 8, targetModules: ['q_proj', 'v_proj']},
    {rank: 8, targetModules: ['q_proj', 'k_proj', 'v_proj', 'o_proj']},
  ];
  const rows = Object.entries(MODELS).map(([name, preset]) => [
    name,
    ...columns.map((options) => {
      const model = Llama.fromConfig(preset, {allocate: false}).applyLoRA(options);
      return countParameters(model).trainable.toLocaleString('en');
    }),
  ]);
  return markdown(
    ['', 'rank 8, all', 'rank 16, all', 'rank 64, all', 'rank 8, q and v', 'rank 8, attention'],
    rows,
  );
}

if (process.argv[1]?.endsWith('writeMemoryTables.ts')) {
  const root = join(import.meta.dirname, '..');
  void memoryTables(root).then((pages) => {
    for (const [file, text] of Object.entries(pages)) writeFileSync(join(root, file), text);
  });
}

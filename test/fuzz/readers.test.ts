import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {Tokenizer} from '../../models/tokenizer.ts';
import {MemoryFolder} from '../../quant/folders/memoryFolder.ts';
import {SafetensorsFolder} from '../../quant/folders/safetensorsFolder.ts';
import {GgufFiles} from '../../quant/gguf/ggufFiles.ts';
import {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {datasetFiles} from '../../src/data/hub/datasetFiles.ts';
import {AdamW, loadOptimizer, saveOptimizer} from '../../src/index.ts';
import {resolveRecipe} from '../../src/tools/recipes/recipe.ts';
import {parseRecipeText} from '../../src/tools/recipes/recipeSource.ts';
import {readCheckpoint, writeCheckpoint} from '../../src/training/output/checkpointFolder.ts';
import {DiskRunFolder} from '../../src/training/output/diskRunFolder.ts';
import {tinyLlama} from '../models/tinyLlama.ts';
import {fuzz, type Target} from './fuzz.ts';
import {type Dice, mutateBytes, mutateJson, mutateText} from './mutate.ts';

const TOKENIZERS = join(__dirname, '../models/fixtures/tokenizers');
const RECIPE = readFileSync(join(__dirname, '../../examples/recipes/train_lora.yaml'), 'utf8');

type Files = Map<string, Blob>;

let folder: string;
let model: LlamaForCausalLM;
let modelFiles: Files;
let modelConfig: string;
let adapterFiles: Files;
let tokenizerFiles: Files[];

beforeAll(async () => {
  await tf.setBackend('cpu');
  folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-fuzz-'));
  model = tinyLlama();
  modelFiles = new Map();
  await model.save(modelFiles);
  modelConfig = await (modelFiles.get('config.json') as Blob).text();
  const adapted = tinyLlama();
  adapted.applyLoRA({
    rank: 2,
    rankPattern: {q_proj: 1},
    alphaPattern: {'.*v_proj': 3},
    targetModules: ['q_proj', 'v_proj'],
  });
  adapterFiles = new Map();
  await adapted.saveAdapter(adapterFiles);
  adapted.dispose();
  tokenizerFiles = ['byteLevel', 'byteFallback'].map((name) => {
    const files = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'];
    return new Map(
      files.flatMap((file) => {
        try {
          return [[file, new Blob([readFileSync(join(TOKENIZERS, name, file))])]];
        } catch {
          return [];
        }
      }),
    );
  });
});

afterAll(() => {
  model.dispose();
  rmSync(folder, {recursive: true, force: true});
});

/** Files with one of them damaged. */
interface Damaged {
  files: Files;
  toString(): string;
}

/** A folder of which one file, JSON, is damaged. */
async function damaged(files: Files, name: string, dice: Dice): Promise<Damaged> {
  const text = mutateJson(JSON.parse(await (files.get(name) as Blob).text()), dice);
  return {files: new Map([...files, [name, new Blob([text])]]), toString: () => text};
}

const inFolder = (
  files: () => Files,
  name: string,
  read: (files: Files) => unknown,
): Target<Promise<Damaged>> => ({
  draw: (dice) => damaged(files(), name, dice),
  read: async (input) => read((await input).files),
});

async function loadModel(files: Files): Promise<void> {
  const loaded = await LlamaForCausalLM.fromPretrained(files);
  try {
    await loaded.generate([[1, 2]], {maxNewTokens: 1});
  } finally {
    loaded.dispose();
  }
}

async function loadAdapter(files: Files): Promise<void> {
  await model.loadAdapter(files, {adapterName: 'fuzzed'});
  model.deleteAdapter('fuzzed');
}

async function loadTokenizer(files: Files): Promise<void> {
  const tokenizer = await Tokenizer.fromFolder(files);
  tokenizer.decode(tokenizer.encode('Rivers, 12 lakes\n\n  and größe 😀'), {skipSpecialTokens: true});
}

/** A safetensors file with this header. */
function withHeader(header: string, data: Uint8Array): Uint8Array {
  const json = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + json.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  bytes.set(data, 8 + json.length);
  return bytes;
}

const HEADER = {
  __metadata__: {format: 'pt'},
  a: {dtype: 'F32', shape: [2, 2], data_offsets: [0, 16]},
  b: {dtype: 'BF16', shape: [4], data_offsets: [16, 24]},
};

async function readSafetensors(bytes: Uint8Array): Promise<void> {
  const file = await SafetensorsFile.fromBlob(
    new Blob([bytes as Uint8Array<ArrayBuffer>]),
    'fuzzed.safetensors',
  );
  for (const name of file.names()) await file.load(name);
}

const GGUF = readFileSync(join(__dirname, '../parity/gguf/fixtures/llama.gguf'));
const GGUF_OF_PIECES = readFileSync(join(__dirname, '../parity/gguf/fixtures/llama-f16.gguf'));

/** Reads config, tokenizer and all tensors of a GGUF file. */
async function readGguf(bytes: Uint8Array): Promise<void> {
  const files = new Map([['fuzzed.gguf', new Blob([bytes as Uint8Array<ArrayBuffer>])]]);
  const tokenizer = await Tokenizer.fromFolder(files);
  tokenizer.decode(tokenizer.encode('Rivers, 12 lakes'));
  const model = await LlamaForCausalLM.fromPretrained(files, {allocate: false});
  model.dispose();
  const tensors = await GgufFiles.open(files, 'fuzzed.gguf');
  for (const name of tensors.tensors.keys()) await tensors.load(name);
}

const CARD = {
  configs: [
    {
      config_name: 'default',
      data_files: [{split: 'train', path: ['data/train-*', '**/{a,b}/[0-9]*.jsonl']}],
      default: true,
    },
    {config_name: 'other', data_dir: 'other', data_files: 'x/*.csv'},
  ],
};
const CARD_PATHS = ['data/train-00000-of-00001.parquet', 'x/a/1.jsonl', 'other/x/1.csv', 'README.md'];

const TARGETS: Record<string, Target<never>> = {
  'safetensors bytes': {
    draw: (dice) => mutateBytes(withHeader(JSON.stringify(HEADER), new Uint8Array(24)), dice),
    read: readSafetensors,
  } satisfies Target<Uint8Array> as never,
  'safetensors header': {
    draw: (dice) => withHeader(mutateJson(HEADER, dice), new Uint8Array(24)),
    read: readSafetensors,
  } satisfies Target<Uint8Array> as never,
  'GGUF bytes': {
    draw: (dice) => mutateBytes(dice.below(2) === 0 ? GGUF : GGUF_OF_PIECES, dice),
    read: readGguf,
  } satisfies Target<Uint8Array> as never,
  'model.safetensors.index.json': {
    draw: (dice) =>
      mutateJson({metadata: {total_size: 1}, weight_map: {a: 'a.safetensors', b: 'b.safetensors'}}, dice),
    read: (text) =>
      SafetensorsFolder.fromFolder(
        new MemoryFolder(new Map([['model.safetensors.index.json', new Blob([text])]])),
      ),
  } satisfies Target<string> as never,
  'config.json': inFolder(() => modelFiles, 'config.json', loadModel) as never,
  'generation_config.json': {
    draw: (dice) => {
      const text = mutateJson(
        {
          eos_token_id: [2, 3],
          temperature: 0.5,
          top_k: 3,
          do_sample: true,
          max_length: 9,
          num_beams: 1,
          stop_strings: ['x'],
        },
        dice,
      );
      return {
        files: new Map([...modelFiles, ['generation_config.json', new Blob([text])]]),
        toString: () => text,
      };
    },
    read: ({files}) => loadModel(files),
  } satisfies Target<Damaged> as never,
  quantization_config: {
    draw: (dice) => {
      const quantization = {
        quant_method: 'bitsandbytes',
        load_in_4bit: true,
        bnb_4bit_quant_type: 'nf4',
        llm_int8_skip_modules: ['lm_head', 'model\\.layers\\.0.*'],
      };
      const text = `${modelConfig.replace(/\}\s*$/, '')},"quantization_config":${mutateJson(quantization, dice)}}`;
      return {files: new Map([...modelFiles, ['config.json', new Blob([text])]]), toString: () => text};
    },
    read: ({files}) => loadModel(files),
  } satisfies Target<Damaged> as never,
  'adapter_config.json': inFolder(() => adapterFiles, 'adapter_config.json', loadAdapter) as never,
  'tokenizer.json': inFolder(() => tokenizerFiles[0], 'tokenizer.json', loadTokenizer) as never,
  'tokenizer.json with byte fallback': inFolder(
    () => tokenizerFiles[1],
    'tokenizer.json',
    loadTokenizer,
  ) as never,
  'tokenizer_config.json': inFolder(() => tokenizerFiles[0], 'tokenizer_config.json', loadTokenizer) as never,
  'special_tokens_map.json': inFolder(
    () => tokenizerFiles[0],
    'special_tokens_map.json',
    loadTokenizer,
  ) as never,
  'recipe text': {
    draw: (dice) => mutateText(RECIPE, dice),
    read: (text) => resolveRecipe(parseRecipeText(text, 'recipe.yaml'), 'recipe.yaml'),
  } satisfies Target<string> as never,
  'recipe values': {
    draw: (dice) =>
      mutateJson(
        {
          model_name_or_path: 'm',
          do_train: true,
          dataset: ['a', 'b'],
          output_dir: 'o',
          lora_target: 'all',
          max_steps: 3,
          interleave_probs: '0.5,0.5',
          learning_rate: 1e-4,
        },
        dice,
      ),
    read: (text) => resolveRecipe(parseRecipeText(text, 'recipe.yaml'), 'recipe.yaml'),
  } satisfies Target<string> as never,
  'hub card': {
    draw: (dice) => mutateJson(CARD, dice),
    read: (text) => {
      let card: unknown;
      try {
        card = JSON.parse(text);
      } catch {
        return;
      }
      datasetFiles({paths: CARD_PATHS, card}, {id: 'org/name', split: 'train'}, (path) =>
        /\.(csv|jsonl|parquet)$/.test(path),
      );
    },
  } satisfies Target<string> as never,
};

/** Files for each target: as many as fit into its seconds on a machine of two cores. */
const COUNT = 1500;
/** Files for a target whose files are large. */
const FEW: Record<string, number> = {'GGUF bytes': 150};

test.each(Object.keys(TARGETS))('%s: damaged files are read or refused', async (name) => {
  expect(await fuzz(name, TARGETS[name], FEW[name] ?? COUNT)).toBeGreaterThan(0);
});

test('an optimizer file: damaged files are read or refused', async () => {
  const optimizer = new AdamW({learningRate: 0.1});
  const weight = tf.variable(tf.ones([3]), true, 'fuzzed');
  optimizer.minimize(() => weight.square().sum() as tf.Scalar);
  const path = join(folder, 'optimizer.safetensors');
  await saveOptimizer(optimizer, path);
  const bytes = readFileSync(path);
  const headerLength = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(bytes.subarray(8, 8 + headerLength).toString());
  const target: Target<Uint8Array> = {
    draw: (dice) =>
      dice.below(2) === 0
        ? mutateBytes(bytes, dice)
        : withHeader(mutateJson(header, dice), bytes.subarray(8 + headerLength)),
    read: (input) => {
      writeFileSync(path, input);
      return loadOptimizer(optimizer, path);
    },
  };
  expect(await fuzz('optimizer file', target, COUNT)).toBeGreaterThan(0);
  optimizer.dispose();
  weight.dispose();
});

test("a checkpoint's state: damaged files are read or refused", async () => {
  const checkpoint = await writeCheckpoint(new DiskRunFolder(folder), 1, async () => {}, {
    step: 1,
    epoch: 0.5,
    random: [1, 2],
  });
  const path = checkpoint.pathOf('resume_state.json');
  const state = JSON.parse(readFileSync(path, 'utf8'));
  const target: Target<string> = {
    draw: (dice) => mutateJson(state, dice),
    read: (text) => {
      writeFileSync(path, text);
      return readCheckpoint(checkpoint);
    },
  };
  expect(await fuzz('checkpoint state', target, COUNT)).toBeGreaterThan(0);
});

import {existsSync} from 'node:fs';
import {readFile} from 'node:fs/promises';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {generateIds} from '../../../models/generation/generate.ts';
import type {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {modelClassOf} from '../../../models/modelRegistry.ts';
import {Tokenizer} from '../../../models/tokenizer.ts';
import {useBackend} from '../../../src/index.ts';
import {expectClose} from '../../expectClose.ts';
import {hasLlamaCpp, LlamaCppModel} from '../../llamaCpp/llamaCpp.ts';
import {llamaTokenizer} from '../../src/data/llamaTokenizer.ts';
import {inFolder, stirAdapter} from '../tinyLlama.ts';

const test = hasLlamaCpp ? it : it.skip;
const ROOT = resolve(__dirname, '../../..');
const STORIES = join(resolve(ROOT, process.env.TFJS_LORA_DATA ?? '../shared/data'), 'stories260k');
const tokenizerOf = (name: string) => Tokenizer.fromFolder(join(__dirname, '../fixtures/tokenizers', name));
const TEXT = 'Once upon a time, there was a little girl';

const shape = {
  vocabSize: 412,
  hiddenSize: 64,
  intermediateSize: 96,
  numHiddenLayers: 3,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 128,
  initializerRange: 0.15,
  rmsNormEps: 1e-5,
  tieWordEmbeddings: false,
};
const sizes = (count: number, step: number) => Array.from({length: count}, (_, i) => 1 + step * i);
const yarn = {
  type: 'yarn',
  factor: 4,
  originalMaxPositionEmbeddings: 32,
  attentionFactor: 1.5,
  betaFast: 24,
  betaSlow: 1,
  truncate: true,
};
const llama3 = {
  type: 'llama3',
  factor: 8,
  lowFreqFactor: 1,
  highFreqFactor: 4,
  originalMaxPositionEmbeddings: 32,
};
const longrope = {
  type: 'longrope',
  originalMaxPositionEmbeddings: 1024,
  attentionFactor: 1.2,
  shortFactor: sizes(6, 0.1),
  longFactor: sizes(6, 0.5),
};

/** Families, and what of their configs a GGUF file says in another way. */
const MODELS: [string, Record<string, unknown>][] = [
  ['llama', {attentionBias: true, mlpBias: true}],
  ['llama', {ropeScaling: llama3, headDim: 32, tieWordEmbeddings: true}],
  ['llama', {ropeScaling: yarn}],
  ['mistral', {slidingWindow: null, ropeScaling: {type: 'linear', factor: 3}}],
  ['qwen2', {tieWordEmbeddings: true}],
  ['qwen3', {headDim: 32}],
  [
    'gemma2',
    {headDim: 16, queryPreAttnScalar: 16, slidingWindow: 8, tieWordEmbeddings: true, initializerRange: 0.03},
  ],
  [
    'gemma3_text',
    {
      headDim: 16,
      queryPreAttnScalar: 16,
      slidingWindow: 8,
      numHiddenLayers: 4,
      layerTypes: ['full_attention', 'sliding_attention', 'sliding_attention', 'full_attention'],
      ropeScaling: {type: 'linear', factor: 4},
      finalLogitSoftcapping: 5,
    },
  ],
  ['phi3', {partialRotaryFactor: 0.75, ropeScaling: longrope, maxPositionEmbeddings: 2048}],
  ['smollm3', {numHiddenLayers: 5}],
];

const familyOf = (modelType: string) =>
  modelClassOf({model_type: modelType}, 'test') as unknown as typeof LlamaForCausalLM;

/** Makes a model with random weights, norms and biases among them. */
function newModel(
  modelType: string,
  extra: Record<string, unknown>,
  tokenizer: Tokenizer,
  dtype = 'float32',
) {
  const model = familyOf(modelType).fromConfig(
    {...shape, ...extra},
    {seed: 5, dtype: dtype as 'float32'},
  ) as LlamaForCausalLM;
  let seed = 1;
  for (const [name, parameter] of model.namedParameters()) {
    if (!/norm|bias/.test(name)) continue;
    const moved = tf.tidy(() =>
      tf.add(parameter.read(), tf.randomUniform(parameter.logicalShape, -0.25, 0.25, 'float32', seed++)),
    );
    parameter.write(moved);
    moved.dispose();
  }
  model.tokenizer = tokenizer;
  return model;
}

const greedily = (model: LlamaForCausalLM, prompt: number[], maxNewTokens: number) =>
  generateIds(model, prompt, {maxNewTokens, eosTokenId: [], doSample: false});

/** Runs `use` with a GGUF file in llama.cpp. */
async function withLlamaCpp<R>(
  path: string,
  adapters: string[],
  use: (model: LlamaCppModel) => Promise<R>,
): Promise<R> {
  const model = await LlamaCppModel.load(path, adapters);
  try {
    return await use(model);
  } finally {
    await model.dispose();
  }
}

/** Expects that llama.cpp splits texts as the model's tokenizer does, and continues one as the model does. */
async function expectSame(model: LlamaForCausalLM, path: string, count: number): Promise<void> {
  const tokenizer = model.tokenizer!;
  const prompt = tokenizer.encode('Once');
  const ours = await greedily(model, prompt, count);
  await withLlamaCpp(path, [], async (theirs) => {
    for (const text of SPLITS) {
      const ids = tokenizer.encode(text, {addSpecialTokens: false});
      expect([...theirs.model.tokenize(text, true)]).toEqual(ids);
    }
    expect(theirs.model.shouldPrependBosToken()).toBe(true);
    expect(theirs.model.tokenBos()).toBe(tokenizer.bosTokenId);
    expect(theirs.model.tokenEos()).toBe(tokenizer.eosTokenId);
    expect(await theirs.greedy(prompt, count)).toEqual(ours);
  });
}

describe(`saveGguf${hasLlamaCpp ? '' : ' (partly skipped: no llama.cpp for this platform)'}`, () => {
  beforeAll(() => useBackend('wasm'));

  const isRead = (modelType: string, {ropeScaling}: Record<string, unknown>) =>
    /qwen2|gemma|phi3/.test(modelType) || ropeScaling === llama3 || ropeScaling === yarn;

  it.each(MODELS)('writes a %s that loads as it was, and that llama.cpp continues as we do: %j', (...given) =>
    inFolder(async (folder) => {
      const model = newModel(...given, await tokenizerOf('byteLevel'));
      const {file} = await model.saveGguf(folder);
      expect(file).toBe('model-f32.gguf');
      const prompt = model.tokenizer!.encode(TEXT);
      if (hasLlamaCpp) {
        const ours = await greedily(model, prompt, 8);
        expect(new Set(ours).size).toBeGreaterThan(1);
        const path = join(folder, file);
        expect(await withLlamaCpp(path, [], (theirs) => theirs.greedy(prompt, 8))).toEqual(ours);
      }
      if (isRead(...given)) {
        const logits = (of: LlamaForCausalLM) =>
          tf.tidy(() => of.predict([prompt]).dataSync() as Float32Array).slice();
        const family = model.constructor as typeof LlamaForCausalLM;
        const loaded = (await family.fromPretrained(join(folder, file))) as LlamaForCausalLM;
        expect(loaded.tokenizer!.encode(TEXT)).toEqual(prompt);
        expectClose(logits(loaded), logits(model), {relative: 1e-5}); // norms with an offset are rounded
        loaded.dispose();
      }
      model.dispose();
    }),
  );

  test('writes Llama 3’s tokenizer', async () => {
    const tokenizer = await llamaTokenizer();
    const small = {vocabSize: 128256, hiddenSize: 8, intermediateSize: 8, tieWordEmbeddings: true};
    const model = newModel('llama', small, tokenizer);
    await inFolder(async (folder) => {
      const {file} = await model.saveGguf(folder);
      await expectSame(model, join(folder, file), 3);
    });
    model.dispose();
  });

  test('writes a tokenizer with byte tokens, and 16-bit weights', async () => {
    const model = newModel('llama', {}, await tokenizerOf('byteFallback'), 'float16');
    await inFolder(async (folder) => {
      const {file} = await model.saveGguf(folder);
      expect(file).toBe('model-f16.gguf');
      await expectSame(model, join(folder, file), 6);
    });
    model.dispose();
  });

  test('writes an adapter that llama.cpp adds to the base, as if it was merged', async () => {
    const tokenizer = await tokenizerOf('byteLevel');
    const model = newModel('llama', {}, tokenizer);
    await inFolder(async (folder) => {
      const base = await model.saveGguf(folder, {fileName: 'base.gguf'});
      model.applyLoRA({rank: 4, alphaPattern: {v_proj: 12}, rankPattern: {down_proj: 2}, useRsLoRA: true});
      stirAdapter(model);
      const adapter = await model.saveAdapterGguf(folder);
      expect(adapter.file).toBe('adapter-f32.gguf');
      const prompt = tokenizer.encode(TEXT);
      const ours = await greedily(model, prompt, 12);
      await expect(model.saveGguf(folder)).rejects.toThrow('expected merged adapters, got an unmerged one');
      model.mergeLoRA();
      const merged = await model.saveGguf(folder);
      const continued = (file: string, adapters: string[] = []) =>
        withLlamaCpp(
          join(folder, file),
          adapters.map((name) => join(folder, name)),
          (theirs) => theirs.greedy(prompt, 12),
        );
      expect(await continued(base.file)).not.toEqual(ours);
      expect(await continued(base.file, [adapter.file])).toEqual(ours);
      expect(await continued(merged.file)).toEqual(ours);
    });
    model.dispose();
  });

  const hasStories = hasLlamaCpp && existsSync(STORIES);
  (hasStories ? it : it.skip).each(['f32', 'f16'] as const)(
    `writes stories260k as %s, which llama.cpp tells as published${hasStories ? '' : ` (skipped: no llama.cpp or no ${STORIES})`}`,
    async (type) => {
      const model = await familyOf('llama').fromPretrained(STORIES);
      const {prompt_ids, greedy_ids} = JSON.parse(await readFile(join(STORIES, 'expected.json'), 'utf8'));
      await inFolder(async (folder) => {
        const {file} = await model.saveGguf(folder, {type});
        const count = type === 'f32' ? greedy_ids.length : 60; // where rounding may let another token win later
        const told = await withLlamaCpp(join(folder, file), [], (theirs) => theirs.greedy(prompt_ids, count));
        expect(told).toEqual(greedy_ids.slice(0, count));
      });
      model.dispose();
    },
  );
});

const SPLITS = [
  "I'll say 'RE you sure? 3333 3.3 \n\n \t\t a\n  b",
  ' Hello  world ',
  'naïve café — “quotes” 我想 🚀',
  '<|eot_id|>x<|begin_of_text|>',
  'Ångström ﬁ',
];

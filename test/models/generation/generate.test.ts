import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {KeyValueCache} from '../../../layers/keyValueCache.ts';
import {chat, generate, generateIds, stream} from '../../../models/generation/generate.ts';
import type {GenerateOptions, GenerativeModel} from '../../../models/generation/generateOptions.ts';
import type {GenerationConfig} from '../../../models/generationConfig.ts';
import {Tokenizer} from '../../../models/tokenizer.ts';
import {setWarningHandler} from '../../../quant/warn.ts';

const VOCABULARY = 405;

/** The rule of {@link SumModel}: returns the token after these. */
function nextToken(ids: number[]): number {
  const sum = ids.reduce((a, b) => a + b, 0);
  return (sum * 3 + (ids.length - 1) * 5 + ids[ids.length - 1] * 7) % VOCABULARY;
}

function continuation(prompt: number[], count: number): number[] {
  const ids = [...prompt];
  for (let i = 0; i < count; i++) ids.push(nextToken(ids));
  return ids.slice(prompt.length);
}

/**
 * A model without weights whose next token depends on every real token before it, on their order in the cache and
 * on the last position, so that a wrong mask, position or cache row shows in the tokens.
 */
class SumModel implements GenerativeModel {
  config = {vocabSize: VOCABULARY, maxPositionEmbeddings: 64};
  tokenizer?: Tokenizer;
  generationConfig: GenerationConfig = {};
  /** `[batch, new positions, whether there was a mask]` of each pass. */
  passes: [number, number, boolean][] = [];
  logitsRows = 0;
  /** Runs before each pass. */
  beforePass = () => {};
  toLogits = (next: tf.Tensor): tf.Tensor => tf.oneHot(next.toInt(), VOCABULARY).toFloat();

  newCache() {
    return new KeyValueCache();
  }

  forward(
    inputIds: tf.Tensor2D,
    {attentionMask, positionIds, cache}: Parameters<GenerativeModel['forward']>[1],
  ) {
    const [batch, length] = inputIds.shape;
    this.passes.push([batch, length, attentionMask !== undefined]);
    this.beforePass();
    const states = inputIds.toFloat().reshape([batch, 1, length, 1]) as tf.Tensor4D;
    const [keys] = (cache as KeyValueCache).update(0, states, states);
    const total = keys.shape[2];
    if (attentionMask) expect(attentionMask.shape).toEqual([batch, total]);
    const ids = keys.reshape([batch, total]).arraySync() as number[][];
    const mask = attentionMask?.arraySync() ?? ids.map((row) => row.map(() => 1));
    return tf.tensor3d(
      ids.map((row, b) =>
        Array.from({length}, (_, t) => {
          const end = total - length + t + 1;
          const sum = row.slice(0, end).reduce((a, id, s) => a + id * mask[b][s], 0);
          const position = (positionIds as number[][])[b][t];
          return [(sum * 3 + position * 5 + row[end - 1] * 7) % VOCABULARY];
        }),
      ),
    );
  }

  logitsOf(hidden: tf.Tensor) {
    this.logitsRows += hidden.size;
    return this.toLogits(hidden.squeeze([-1]));
  }
}

let model: SumModel;
let tokenizer: Tokenizer;
let tensorsBefore: number;

beforeAll(async () => {
  await tf.setBackend('cpu');
  tokenizer = await Tokenizer.fromFolder(join(__dirname, '../fixtures/tokenizers/byteLevel'));
});
beforeEach(() => {
  model = new SumModel();
  model.tokenizer = tokenizer;
  tensorsBefore = tf.memory().numTensors;
});
afterEach(() => {
  expect(tf.memory().numTensors).toBe(tensorsBefore);
});

describe('generateIds', () => {
  test('runs one prompt as a prefill, then one position at a time, with logits of the last only', async () => {
    const ids = await generateIds(model, [5, 9, 2], {maxNewTokens: 6});
    expect(ids).toEqual(continuation([5, 9, 2], 6));
    expect(model.passes).toEqual([[1, 3, false], ...Array(5).fill([1, 1, false])]);
    expect(model.logitsRows).toBe(6);
  });

  test('gives a batch of unequal prompts what it gives each alone', async () => {
    const prompts = [[5], [7, 8, 9, 10], [0, 0], [400, 3, 1]];
    const ids = await generateIds(model, prompts, {maxNewTokens: 5});
    expect(ids).toEqual(prompts.map((prompt) => continuation(prompt, 5)));
    expect(model.passes[0]).toEqual([4, 4, true]);
  });

  test('uses no mask for prompts of equal length', async () => {
    await generateIds(
      model,
      [
        [5, 6],
        [7, 8],
      ],
      {maxNewTokens: 2},
    );
    expect(model.passes).toEqual([
      [2, 2, false],
      [2, 1, false],
    ]);
  });

  test('drops rows that end, and continues the others unchanged', async () => {
    const prompts = [[5, 6, 7], [1], [300, 2]];
    const whole = prompts.map((prompt) => continuation(prompt, 8));
    const eosTokenId = [whole[0][2], whole[1][4]];
    const ids = await generateIds(model, prompts, {maxNewTokens: 8, eosTokenId});
    const untilEos = (row: number[]) => {
      const end = row.findIndex((id) => eosTokenId.includes(id));
      return end < 0 ? row : row.slice(0, end + 1);
    };
    expect(ids).toEqual(whole.map(untilEos));
    expect(ids[0]).toHaveLength(3);
    expect(model.passes.map(([batch]) => batch)).toEqual([3, 3, 3, 2, 2, 1, 1, 1]);
  });

  test("lets options override the model's generation_config.json", async () => {
    const [first, second] = continuation([5], 2);
    model.generationConfig = {eosTokenId: second, maxNewTokens: 7};
    expect(await generateIds(model, [5])).toEqual([first, second]);
    expect(await generateIds(model, [5], {eosTokenId: first})).toEqual([first]);
    expect(await generateIds(model, [5], {eosTokenId: []})).toHaveLength(7);
    expect(await generateIds(model, [5, 6, 7], {eosTokenId: [], maxLength: 5})).toHaveLength(2);
    expect(await generateIds(model, [5], {minNewTokens: 3, maxNewTokens: 3})).toHaveLength(3);
  });

  test('generates 20 tokens by default, and never more than the model has positions for', async () => {
    expect(await generateIds(model, [5])).toHaveLength(20);
    const prompts = [Array(60).fill(1), [2]];
    const ids = await generateIds(model, prompts, {maxNewTokens: 10});
    expect(ids.map((row) => row.length)).toEqual([4, 10]);
    expect(ids[1]).toEqual(continuation([2], 10));
  });

  test('needs no tokenizer for ids', async () => {
    model.tokenizer = undefined;
    expect(await generateIds(model, [5], {maxNewTokens: 1})).toEqual(continuation([5], 1));
    await expect(generateIds(model, 'text')).rejects.toMatchObject({code: 'UNSUPPORTED'});
    await expect(generateIds(model, [5], {stopStrings: 'x'})).rejects.toMatchObject({code: 'UNSUPPORTED'});
    await expect(generate(model, [5])).rejects.toMatchObject({code: 'UNSUPPORTED'});
  });

  test('applies the repetition penalty to tokens of the prompt', async () => {
    const row = Float32Array.from({length: VOCABULARY}, (_, id) => (id === 0 ? 3 : id === 4 ? 2 : -5));
    model.toLogits = (next) => tf.zeros([...next.shape, VOCABULARY]).add(row);
    expect(await generateIds(model, [5], {maxNewTokens: 2})).toEqual([0, 0]);
    // The logit of 0 falls to 1, below that of 4, which falls to 2/3 once 4 was generated.
    expect(await generateIds(model, [0], {maxNewTokens: 2, repetitionPenalty: 3})).toEqual([4, 0]);
  });
});

describe('sampling', () => {
  const settings: GenerateOptions = {doSample: true, topK: 0, maxNewTokens: 8, seed: 11};
  beforeEach(() => {
    model.toLogits = (next) => tf.zeros([...next.shape, VOCABULARY]);
  });

  test('gives the same tokens for the same seed, and others for another', async () => {
    const ids = await generateIds(model, [5], settings);
    expect(await generateIds(model, [5], settings)).toEqual(ids);
    expect(await generateIds(model, [5], {...settings, seed: 12})).not.toEqual(ids);
    expect(await generateIds(model, [5], {...settings, seed: undefined})).not.toEqual(ids);
  });

  test('draws for a row independently of the other rows', async () => {
    const [first, second] = await generateIds(model, [[5], [5]], settings);
    expect(first).toEqual(await generateIds(model, [5], settings));
    expect(second).not.toEqual(first);
    const eosTokenId = first[2];
    const early = await generateIds(model, [[5], [5, 6]], {...settings, eosTokenId});
    expect(early[0]).toEqual(first.slice(0, 3));
    expect(early[1]).toEqual(second);
  });
});

describe('text', () => {
  test('generate returns the new text, and a list for a list', async () => {
    const prompt = 'The council';
    const ids = await generateIds(model, prompt, {maxNewTokens: 12});
    expect(ids).toEqual(continuation(tokenizer.encode(prompt), 12));
    const text = await generate(model, prompt, {maxNewTokens: 12});
    expect(text).toBe(tokenizer.decode(ids, {skipSpecialTokens: true}));
    expect(await generate(model, tokenizer.encode(prompt), {maxNewTokens: 12})).toBe(text);
    expect(await generate(model, ['Rivers', prompt], {maxNewTokens: 12})).toEqual([
      await generate(model, 'Rivers', {maxNewTokens: 12}),
      text,
    ]);
  });

  test('stream yields the same text in pieces', async () => {
    const pieces: string[] = [];
    for await (const piece of stream(model, 'The council', {maxNewTokens: 30})) pieces.push(piece);
    expect(pieces.join('')).toBe(await generate(model, 'The council', {maxNewTokens: 30}));
    expect(pieces.length).toBeGreaterThan(5);
    expect(pieces).not.toContain('');
  });

  test('a stop string ends the text before it', async () => {
    const text = await generate(model, 'The council', {maxNewTokens: 30});
    const stop = text.slice(10, 13);
    model.passes = [];
    const stopped = await generate(model, 'The council', {maxNewTokens: 30, stopStrings: [stop]});
    expect(stopped).toBe(text.slice(0, text.indexOf(stop)));
    expect(model.passes.length).toBeLessThan(30);
  });

  test('leaving a stream early frees everything and stops the model', async () => {
    for await (const piece of stream(model, 'The council', {maxNewTokens: 30})) {
      expect(piece).not.toBe('');
      break;
    }
    expect(model.passes.length).toBeLessThan(5);
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  test('an error in the consumer or in the model frees everything', async () => {
    const consume = async () => {
      for await (const _ of stream(model, 'The council', {maxNewTokens: 30})) throw new Error('consumer');
    };
    await expect(consume()).rejects.toThrow('consumer');
    expect(tf.memory().numTensors).toBe(tensorsBefore);
    model.beforePass = () => {
      if (model.passes.at(-1)?.[1] === 1) throw new Error('model');
    };
    await expect(generate(model, 'The council')).rejects.toThrow('model');
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  test("chat renders the template and generates the assistant's turn", async () => {
    const messages = [{role: 'user', content: 'Who pays?'}];
    const ids = tokenizer.encodeChat(messages, {addGenerationPrompt: true, dateString: 'today'});
    expect(await chat(model, messages, {maxNewTokens: 9, dateString: 'today'})).toBe(
      await generate(model, ids, {maxNewTokens: 9}),
    );
    expect(model.passes[0]).toEqual([1, ids.length, false]);
    model.tokenizer = await Tokenizer.fromFolder(join(__dirname, '../fixtures/tokenizers/byteFallback'));
    await expect(chat(model, messages)).rejects.toMatchObject({code: 'UNSUPPORTED'});
  });
});

test('settings of sampling without doSample cause a warning, unless the call or the model says', async () => {
  const warnings: string[] = [];
  const before = setWarningHandler((message) => warnings.push(message));
  const limits = {maxNewTokens: 1};
  try {
    await generate(model, [1, 2], {...limits, temperature: 0.5, doSample: false});
    await generate(model, [1, 2], limits);
    await generateIds(model, [1, 2], {...limits, topK: 3});
    model.generationConfig = {doSample: true};
    await generate(model, [1, 2], {...limits, topK: 3});
    expect(warnings).toEqual([]);
    model.generationConfig = {};
    await generate(model, [1, 2], {...limits, temperature: 0.5, topP: 0.9});
    for await (const _ of stream(model, [1, 2], {...limits, minP: 0.1}));
    expect(warnings).toEqual([
      expect.stringMatching(/^generate temperature, topP: expected doSample: true with them, got none/),
      expect.stringMatching(/^generate minP: expected doSample: true with it, got none/),
    ]);
  } finally {
    setWarningHandler(before);
  }
});

describe('bad input', () => {
  test.each([
    [[], 'INVALID_ARGUMENT', 'prompts: expected at least one, got an empty list'],
    [[[1], []], 'INVALID_ARGUMENT', 'prompt 1: expected at least one token, got none'],
    [[1, 405], 'VOCABULARY_MISMATCH', 'prompt 0, token 1: expected an id of 0 to 404'],
    [[-1], 'VOCABULARY_MISMATCH', 'got -1'],
    [[{role: 'user', content: 'x'}], 'INVALID_ARGUMENT', 'Answer messages with chat.'],
    [[[{role: 'user', content: 'x'}]], 'INVALID_ARGUMENT', 'pass model.tokenizer.encodeChat('],
    [
      Array(64).fill(1),
      'INVALID_ARGUMENT',
      "expected fewer than 64 tokens (the model's max_position_embeddings), got 64",
    ],
  ])('prompt %j', async (prompt, code, message) => {
    await expect(generateIds(model, prompt as unknown as number[])).rejects.toMatchObject({
      code,
      message: expect.stringContaining(message),
    });
    expect(model.passes).toHaveLength(0);
  });

  test('a prompt that leaves no room below maxLength', async () => {
    await expect(generateIds(model, [1, 2, 3], {maxLength: 3})).rejects.toThrow(
      'expected fewer than 3 tokens (maxLength)',
    );
  });

  test('an unknown option', async () => {
    await expect(generate(model, 'a', {maxTokens: 3} as GenerateOptions)).rejects.toThrow(
      'Use maxNewTokens.',
    );
    const options = {toolz: [], maxNewTokens: 1} as GenerateOptions;
    await expect(chat(model, [{role: 'user', content: ''}], options)).rejects.toThrow('Did you mean tools?');
  });

  test('logits that are not finite', async () => {
    model.toLogits = (next) => tf.fill([...next.shape, VOCABULARY], Number.NaN);
    await expect(generateIds(model, [[1], [2]])).rejects.toMatchObject({code: 'NON_FINITE'});
  });
});

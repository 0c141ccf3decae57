import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import type {GenerateOptions} from '../../models/generation/generateOptions.ts';
import {
  parseGenerationConfig,
  readGenerationConfig,
  resolveGenerationConfig,
  serializeGenerationConfig,
  writeGenerationConfig,
} from '../../models/generationConfig.ts';

/** The file of Llama 3.2 Instruct, plus keys that this library does not read. */
const INSTRUCT = {
  bos_token_id: 128000,
  cache_implementation: null,
  do_sample: true,
  eos_token_id: [128001, 128008, 128009],
  temperature: 0.6,
  top_p: 0.9,
  transformers_version: '4.45.0.dev0',
};

test('reads generation_config.json and writes it back with unknown keys', () => {
  const config = parseGenerationConfig(INSTRUCT);
  expect(config).toEqual({
    bosTokenId: 128000,
    doSample: true,
    eosTokenId: [128001, 128008, 128009],
    temperature: 0.6,
    topP: 0.9,
    otherKeys: {cache_implementation: null, transformers_version: '4.45.0.dev0'},
  });
  const json = serializeGenerationConfig({...config, topK: 10, seed: 3});
  expect(json).toEqual({...INSTRUCT, top_k: 10});
  expect(Object.keys(json)).toEqual(Object.keys(json).sort());
  expect(parseGenerationConfig({top_k: null, eos_token_id: 2})).toEqual({eosTokenId: 2});
});

test.each([
  [{temperature: 0}, 'temperature: expected a number above 0 (for greedy decoding, doSample: false), got 0'],
  [{top_p: 1.5}, 'top_p: expected a number of 0 to 1, got 1.5'],
  [{eos_token_id: [1, -1]}, 'eos_token_id: expected a token id or a list of them, got [1,-1]'],
  [{do_sample: 'yes'}, 'do_sample: expected true or false, got "yes"'],
  [{stop_strings: ['']}, 'stop_strings: expected a non-empty string or a list of them, got [""]'],
  [[], 'expected a JSON object, got []'],
])('names what is wrong in %j', (json, message) => {
  expect(() => parseGenerationConfig(json, 'dir/generation_config.json')).toThrow(
    expect.objectContaining({code: 'INVALID_CONFIG', message: expect.stringContaining(message)}),
  );
});

describe('resolveGenerationConfig', () => {
  test('has the defaults of transformers', () => {
    expect(resolveGenerationConfig({})).toEqual({
      maxNewTokens: 20,
      maxLength: undefined,
      minNewTokens: 0,
      doSample: false,
      temperature: 1,
      topK: 50,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      stopStrings: [],
      eosTokenIds: [],
      seed: undefined,
    });
  });

  test("lets the caller's options override the model's", () => {
    const model = parseGenerationConfig({...INSTRUCT, max_length: 100});
    expect(resolveGenerationConfig(model)).toMatchObject({
      maxNewTokens: undefined,
      maxLength: 100,
      doSample: true,
      temperature: 0.6,
      eosTokenIds: [128001, 128008, 128009],
    });
    expect(
      resolveGenerationConfig(model, {
        maxNewTokens: 5,
        temperature: undefined,
        topP: 0.5,
        eosTokenId: 7,
        stopStrings: 'x',
      }),
    ).toMatchObject({
      maxNewTokens: 5,
      maxLength: undefined,
      temperature: 0.6,
      topP: 0.5,
      eosTokenIds: [7],
      stopStrings: ['x'],
    });
    expect(resolveGenerationConfig({maxNewTokens: 8}, {maxLength: 9})).toMatchObject({
      maxNewTokens: undefined,
      maxLength: 9,
    });
    expect(resolveGenerationConfig({maxLength: 8}, {maxNewTokens: 9, maxLength: 50}).maxNewTokens).toBe(9);
  });

  test.each([
    [{maxTokens: 5}, /maxTokens: expected some of maxNewTokens.*Use maxNewTokens/],
    [{max_new_tokens: 5}, /Use maxNewTokens/],
    [{maxNewTokens: 0}, /maxNewTokens: expected a whole number of 1 or more, got 0/],
    [{temperature: -1}, /temperature: expected a number above 0/],
    [{temperature: Number.NaN}, /temperature: expected a number above 0/],
    [{topK: 1.5}, /topK: expected a whole number of 0 or more, got 1.5/],
    [{repetitionPenalty: 0}, /repetitionPenalty: expected a number above 0, got 0/],
    [{otherKeys: {}}, /otherKeys: expected some of/],
  ])('refuses %j', (options, message) => {
    expect(() => resolveGenerationConfig({}, options as GenerateOptions)).toThrow(
      expect.objectContaining({code: 'INVALID_ARGUMENT', message: expect.stringMatching(message)}),
    );
  });

  test('refuses a decoding method that is not implemented, naming its key', () => {
    expect(() => resolveGenerationConfig(parseGenerationConfig({num_beams: 4}))).toThrow(
      expect.objectContaining({
        code: 'UNSUPPORTED',
        message: expect.stringContaining('generation_config.json num_beams: expected it to be off, got 4'),
      }),
    );
    const off = parseGenerationConfig({
      num_beams: 1,
      no_repeat_ngram_size: 0,
      bad_words_ids: null,
      use_cache: true,
    });
    expect(resolveGenerationConfig(off).doSample).toBe(false);
  });
});

describe('files', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'generation-config-'));
  });
  afterEach(() => rmSync(folder, {recursive: true}));

  test('round-trip, sorted with indent 2 as in transformers', async () => {
    await writeGenerationConfig(folder, parseGenerationConfig(INSTRUCT));
    expect(readFileSync(join(folder, 'generation_config.json'), 'utf8')).toBe(
      `${JSON.stringify(INSTRUCT, null, 2)}\n`,
    );
    expect(await readGenerationConfig(folder)).toEqual(parseGenerationConfig(INSTRUCT));
  });

  test('have a fallback when absent, and are named when corrupt', async () => {
    expect(await readGenerationConfig(folder, {eosTokenId: 2})).toEqual({eosTokenId: 2});
    writeFileSync(join(folder, 'generation_config.json'), '{"top_k": ');
    await expect(readGenerationConfig(folder)).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringContaining(join(folder, 'generation_config.json')),
    });
    writeFileSync(join(folder, 'generation_config.json'), '{"top_k": -1}');
    await expect(readGenerationConfig(folder)).rejects.toMatchObject({
      code: 'INVALID_CONFIG',
      message: expect.stringContaining('generation_config.json top_k'),
    });
  });
});

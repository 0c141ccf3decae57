import {readFile, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {errorOf, inFolder, tinyLlama} from '../tinyLlama.ts';

type Config = Record<string, unknown>;

beforeAll(() => tf.setBackend('cpu'));

/** Saves an adapter of `q_proj`, changes its config, and loads it into another model. */
async function loadEdited<R>(edit: Config, use: (load: () => Promise<string[]>) => Promise<R>): Promise<R> {
  const [source, target] = [tinyLlama(), tinyLlama()];
  try {
    return await inFolder(async (folder) => {
      source.applyLoRA({rank: 2, targetModules: ['q_proj']});
      await source.saveAdapter(folder);
      const path = join(folder, 'adapter_config.json');
      await writeFile(path, JSON.stringify({...JSON.parse(await readFile(path, 'utf8')), ...edit}));
      return use(async () => [...(await target.loadAdapter(folder)).adaptedLayers().keys()]);
    });
  } finally {
    source.dispose();
    target.dispose();
  }
}

describe("an adapter's patterns", () => {
  test.each([
    '(?i).*\\.Q_PROJ',
    '(?P<block>model\\.layers\\.\\d+)\\.(?:self_attn)\\.q_proj\\Z',
    '^(?!.*vision).*q_proj$',
    '.*(?<=self_attn\\.)q_proj',
  ])("are Python's: %s", async (pattern) => {
    expect(await loadEdited({target_modules: pattern}, (load) => load())).toEqual([
      'model.layers.0.self_attn.q_proj',
      'model.layers.1.self_attn.q_proj',
    ]);
  });

  test.each([
    ['target_modules', '(?:[a-z._0-9]+)+!'],
    ['rank_pattern', {'(?:[a-z._0-9]+)+!': 4}],
    ['alpha_pattern', {q_proj: 4, '((?:.*)*)+x': 4}],
  ])('that Python would never finish are refused: %s', async (key, value) => {
    const error = await loadEdited({[key]: value}, (load) => errorOf(load));
    expect(error.code).toBe('INVALID_CONFIG');
    expect(error.message).toMatch(
      new RegExp(`adapter_config.json ${key}: expected a regular expression that Python can finish, got "`),
    );
  });

  test.each(['(?:a|a)*!', '(?:\\w?){30}!', '\\w*\\w*\\w*\\w*\\w*\\w*!'])(
    'that take backtracking ages match immediately: %s',
    async (pattern) => {
      const error = await loadEdited({target_modules: pattern}, (load) => errorOf(load));
      expect(error.code).toBe('UNKNOWN_TARGET');
    },
  );
});

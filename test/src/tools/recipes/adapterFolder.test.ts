import {mkdirSync, writeFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import {adapterFolder} from '../../../../src/tools/recipes/adapterFolder.ts';
import {errorOf, inFolder} from '../../../models/tinyLlama.ts';
import {FakeHub} from '../../data/hub/fakeHub.ts';

const files = {'adapter_config.json': '{}', 'adapter_model.safetensors': 'weights'};
const repository = (id: string) => ({kind: 'model' as const, id, commit: 'c'.repeat(40), files});

/** Starts a hub with two adapters, one of them under a name that looks like a path. */
function withHub(
  body: (args: {
    hub: FakeHub;
    folder: string;
    options: {endpoint: string; cacheDir: string};
  }) => Promise<void>,
) {
  return inFolder(async (folder) => {
    const hub = new FakeHub([repository('org/lora'), repository('saves/lora')]);
    const options = {endpoint: await hub.start(), cacheDir: join(folder, 'cache'), retryDelay: 1};
    try {
      await body({hub, folder, options});
    } finally {
      await hub.stop();
    }
  });
}

test.each([
  'saves/nosuch',
  'output/nosuch',
  './nosuch',
  '../nosuch',
  'test/nosuch', // test/ is an existing folder
  'saves/run/lora',
])('%s is a path: the hub is not asked', (name) =>
  withHub(async ({hub, options}) => {
    const {code, message} = await errorOf(() => adapterFolder(name, options));
    expect(code).toBe('FILE_NOT_FOUND');
    expect(message).toContain(
      `adapter_name_or_path ${name}: expected the folder of an adapter (adapter_config.json, ` +
        `adapter_model.safetensors), got no folder at ${resolve(name)}. Check the path`,
    );
    expect(hub.requests).toEqual([]);
  }),
);

test('a valid hub name is looked up on disk and on the hub', () =>
  withHub(async ({hub, options}) => {
    const expected =
      '--adapter org/nosuch: expected the folder of an adapter (adapter_config.json, adapter_model.safetensors) or ' +
      `the name of an adapter on the hub, got no folder at ${resolve('org/nosuch')}, and none on the hub: `;
    const ask = (more = {}) =>
      errorOf(() => adapterFolder('org/nosuch', {...options, key: '--adapter', ...more}));
    const unknown = await ask();
    expect([unknown.code, unknown.message]).toEqual(['FILE_NOT_FOUND', expect.stringContaining(expected)]);
    expect(unknown.message).toContain('got 404: Repository not found');
    const offline = await ask({offline: true});
    expect(offline.message).toContain(
      `${expected}adapter org/nosuch: expected adapter_config.json, adapter_model.safetensors in `,
    );
    expect(offline.message).not.toContain('tokenizer');
    expect(await adapterFolder('org/lora', options)).toContain('models--org--lora');
    expect(hub.requests.length).toBeGreaterThan(0);
  }));

test('a cached adapter is used even if its name looks like a path', () =>
  withHub(async ({hub, folder, options}) => {
    const advice = 'download it first (tfjs-lora download saves/lora)';
    expect((await errorOf(() => adapterFolder('saves/lora', options))).message).toContain(advice);
    const snapshot = join(folder, 'cache/models--saves--lora/snapshots', 'c'.repeat(40));
    mkdirSync(snapshot, {recursive: true});
    mkdirSync(join(snapshot, '../../refs'));
    writeFileSync(join(snapshot, '../../refs/main'), 'c'.repeat(40));
    for (const [name, contents] of Object.entries(files)) writeFileSync(join(snapshot, name), contents);
    expect(await adapterFolder('saves/lora', options)).toBe(snapshot);
    expect(hub.requests).toEqual([]);
  }));

describe('a folder', () => {
  test('with an adapter is returned as it is', () =>
    inFolder(async (folder) => {
      writeFileSync(join(folder, 'adapter_config.json'), '{}');
      expect(await adapterFolder(folder)).toBe(folder);
    }));

  test('of an unfinished run names the newest checkpoint with an adapter', () =>
    inFolder(async (folder) => {
      for (const step of [3, 12, 6]) mkdirSync(join(folder, `checkpoint-${step}`));
      const got = 'got checkpoints of an unfinished run. ';
      expect((await errorOf(() => adapterFolder(folder))).message).toContain(`${got}Name the output folder`);
      for (const step of [3, 12])
        writeFileSync(join(folder, `checkpoint-${step}`, 'adapter_config.json'), '{}');
      expect((await errorOf(() => adapterFolder(folder))).message).toContain(
        `${got}Finish the run, or use adapter_name_or_path=${join(folder, 'checkpoint-12')}.`,
      );
    }));

  test('without an adapter is refused', () =>
    inFolder(async (folder) => {
      expect((await errorOf(() => adapterFolder(folder, {key: '--compare'}))).message).toContain(
        `--compare ${folder}: expected the folder of an adapter (adapter_config.json, ` +
          'adapter_model.safetensors), got no adapter_config.json in it.',
      );
    }));
});

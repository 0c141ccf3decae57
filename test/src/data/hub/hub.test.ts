import {createHash} from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';
import type {Tokenizer} from '../../../../models/tokenizer.ts';
import {setWarningHandler} from '../../../../quant/warn.ts';
import type {DatasetInfo} from '../../../../src/data/datasets/datasetInfo.ts';
import {datasetFiles} from '../../../../src/data/hub/datasetFiles.ts';
import {
  type HubOptions,
  type HubProgress,
  huggingFaceEnvironment,
} from '../../../../src/data/hub/hubOptions.ts';
import {resolveModelFolder} from '../../../../src/data/hub/resolveModelFolder.ts';
import {loadDataset} from '../../../../src/data/loadDataset.ts';
import {llamaTokenizer} from '../llamaTokenizer.ts';
import {FakeHub, type FakeRepository} from './fakeHub.ts';

const COMMIT = 'c'.repeat(40);
const weights = Buffer.from(Array.from({length: 200_000}, (_, i) => (i * 7) % 251));

const model: FakeRepository = {
  kind: 'model',
  id: 'org/tiny',
  commit: COMMIT,
  files: {
    'README.md': '# tiny',
    'config.json': '{}',
    'tokenizer.json': '{"version": "1.0"}',
    'tokenizer_config.json': '{"bos_token": null}',
    'model.safetensors': weights,
    'pytorch_model.bin': 'pickle',
    'original/consolidated.safetensors': 'twice',
  },
  large: ['model.safetensors', 'pytorch_model.bin'],
};

const data: FakeRepository = {
  kind: 'dataset',
  id: 'org/pairs',
  commit: COMMIT,
  files: {
    'README.md': '# pairs',
    'data/train-00000-of-00002.jsonl': '{"instruction": "q", "output": "train0"}',
    'data/train-00001-of-00002.jsonl': '{"instruction": "q", "output": "train1"}',
    'data/test-00000-of-00001.jsonl': '{"instruction": "q", "output": "test0"}',
  },
};

const configured: FakeRepository = {
  ...data,
  id: 'org/configured',
  files: {
    'en/a b.json': '[{"instruction": "q", "output": "hello"}]',
    'fr/all.json': '[{"instruction": "q", "output": "bonjour"}]',
    'fr/held.json': '[{"instruction": "q", "output": "salut"}]',
  },
  card: {
    configs: [
      {config_name: 'en', data_files: 'en/*.json'},
      {
        config_name: 'fr',
        data_dir: 'fr',
        data_files: [
          {split: 'train', path: 'a*.json'},
          {split: 'test', path: ['held.json']},
        ],
      },
    ],
  },
};

const described: FakeRepository = {
  ...data,
  id: 'org/described',
  files: {'dataset_info.json': JSON.stringify({pairs: {hf_hub_url: 'org/pairs'}})},
};

const gated: FakeRepository = {...model, id: 'org/gated', token: 'not-of-the-usual-form'};
const pickled: FakeRepository = {
  ...model,
  id: 'org/pickled',
  files: {'config.json': '{}', 'pytorch_model.bin': 'x'},
};
const partial: FakeRepository = {
  ...model,
  id: 'org/partial',
  files: {'config.json': '{}', 'model.safetensors': 'x'},
};

let hub: FakeHub;
let options: HubOptions & {cacheDir: string};
let warnings: string[];
let before: (message: string) => void;

beforeEach(async () => {
  hub = new FakeHub([model, data, configured, described, gated, pickled, partial]);
  options = {endpoint: await hub.start(), cacheDir: mkdtempSync(join(tmpdir(), 'tfjs-lora-hub-'))};
  warnings = [];
  before = setWarningHandler((message) => warnings.push(message));
});

afterEach(async () => {
  setWarningHandler(before);
  await hub.stop();
  rmSync(options.cacheDir, {recursive: true});
});

const storage = () => join(options.cacheDir, 'models--org--tiny');
const filesAsked = () => hub.requests.filter((request) => request.includes('/resolve/'));

describe('models', () => {
  test('are fetched into the standard cache once, only the needed files', async () => {
    const progress: HubProgress[] = [];
    const folder = await resolveModelFolder('org/tiny', {
      ...options,
      onProgress: (each) => progress.push(each),
    });
    expect(folder).toBe(join(storage(), 'snapshots', COMMIT));
    expect(readdirSync(folder).sort()).toEqual([
      'config.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    expect(readFileSync(join(folder, 'model.safetensors'))).toEqual(weights);
    const sha256 = createHash('sha256').update(weights).digest('hex');
    expect(readlinkSync(join(folder, 'model.safetensors'))).toBe(join('..', '..', 'blobs', sha256));
    // Git's hash of "{}".
    expect(readlinkSync(join(folder, 'config.json'))).toMatch(/9e26dfeeb6e641a33dae4961196235bdb965b21b$/);
    expect(readFileSync(join(storage(), 'refs/main'), 'utf8')).toBe(COMMIT);
    const total = weights.length + 2 + 18 + 19;
    expect(progress.at(-1)).toMatchObject({repository: 'org/tiny', done: total, total});

    expect(filesAsked()).toHaveLength(4);
    expect(await resolveModelFolder('org/tiny', options)).toBe(folder);
    expect(filesAsked()).toHaveLength(4);
    expect(await resolveModelFolder('org/tiny', {...options, revision: COMMIT})).toBe(folder);
    expect(warnings).toEqual([]);
  });

  test('a folder is returned unchanged', async () => {
    expect(await resolveModelFolder(options.cacheDir, options)).toBe(options.cacheDir);
    expect(hub.requests).toEqual([]);
  });

  test('an interrupted download is tried again', async () => {
    hub.breakAfter = 1; // of the first file, which has two
    const folder = await resolveModelFolder('org/tiny', options);
    expect(readFileSync(join(folder, 'model.safetensors'))).toEqual(weights);
    expect(filesAsked()).toHaveLength(5);
  });

  test('the part of a file from an earlier run is kept', async () => {
    const sha256 = createHash('sha256').update(weights).digest('hex');
    mkdirSync(join(storage(), 'blobs'), {recursive: true});
    writeFileSync(join(storage(), 'blobs', `${sha256}.incomplete`), weights.subarray(0, 150_000));
    const folder = await resolveModelFolder('org/tiny', options);
    expect(readFileSync(join(folder, 'model.safetensors'))).toEqual(weights);
    expect(hub.requests).toContain(`/org/tiny/resolve/${COMMIT}/model.safetensors bytes=150000-`);
  });

  test('contents that differ from those announced are refused and not kept', async () => {
    hub.corruption = Buffer.alloc(2, 'x');
    await expect(resolveModelFolder('org/tiny', options)).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringContaining(
        'expected 2 bytes with hash 9e26dfeeb6e641a33dae4961196235bdb965b21b, got 2 with',
      ),
    });
    hub.corruption = undefined;
    await resolveModelFolder('org/tiny', options);
  });

  test('the token is sent', async () => {
    await expect(resolveModelFolder('org/gated', options)).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringMatching(
        /^model org\/gated: expected a repository of http.*, got 401: Access to this repository is restricted.*set HF_TOKEN\.$/,
      ),
    });
    await resolveModelFolder('org/gated', {...options, token: gated.token});
  });

  test.each([
    ['org/none', 'FILE_NOT_FOUND', 'got 404: Repository not found'],
    [
      './none',
      'FILE_NOT_FOUND',
      'model ./none: expected a folder, a GGUF file or a hub id (org/name), got no folder at ',
    ],
    ['a/b/c', 'FILE_NOT_FOUND', `got no folder at ${resolve('a/b/c')}`],
    ['package.json', 'FILE_NOT_FOUND', 'got another file. Name its folder, ..'],
    ['none.gguf', 'FILE_NOT_FOUND', `got no folder at ${resolve('none.gguf')}`],
    [
      'org/pickled',
      'UNSUPPORTED',
      'model org/pickled: expected weights as safetensors, got pytorch_model.bin.',
    ],
    [
      'org/partial',
      'FILE_NOT_FOUND',
      'model org/partial: expected tokenizer.json, tokenizer_config.json in ',
    ],
  ])('%s is refused', async (id, code, message) => {
    await expect(resolveModelFolder(id, options)).rejects.toMatchObject({
      code,
      message: expect.stringContaining(message),
    });
  });

  test('an unknown revision is refused', async () => {
    await expect(resolveModelFolder('org/tiny', {...options, revision: 'v2'})).rejects.toThrow(
      /^model org\/tiny at v2: expected a repository of .*, got 404: Invalid rev id: v2/,
    );
  });
});

describe('without a network', () => {
  test('the cache is used', async () => {
    const folder = await resolveModelFolder('org/tiny', options);
    const asked = hub.requests.length;
    expect(await resolveModelFolder('org/tiny', {...options, offline: true})).toBe(folder);
    expect(hub.requests).toHaveLength(asked);
    await hub.stop();
    expect(await resolveModelFolder('org/tiny', options)).toBe(folder);
    expect(warnings).toEqual([
      expect.stringMatching(/^model org\/tiny: http.* cannot be reached: .+ Using the cached /),
    ]);
    hub = new FakeHub([]);
    await hub.start();
  });

  test('it says which files are missing and where to put them', async () => {
    const offline = {...options, offline: true};
    await expect(resolveModelFolder('org/tiny', offline)).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message:
        'model org/tiny: expected config.json, model.safetensors (or its shards and model.safetensors.index.json), tokenizer.json, ' +
        `tokenizer_config.json in ${join(storage(), 'snapshots', '<commit>')}, got nothing there (offline). Download the model on a machine ` +
        `with a network (\`npx tfjs-lora download org/tiny\`) and copy ${storage()} here; or put the files into a folder and pass its path.`,
    });
    const folder = await resolveModelFolder('org/tiny', options);
    rmSync(join(folder, 'model.safetensors'));
    await expect(resolveModelFolder('org/tiny', offline)).rejects.toThrow(
      `model org/tiny: expected model.safetensors in ${folder}, got nothing there (offline).`,
    );
    // A cache that Python filled has no notes; the model's own index shows what is missing.
    rmSync(join(storage(), '.tfjs-lora'), {recursive: true});
    writeFileSync(
      join(folder, 'model.safetensors.index.json'),
      JSON.stringify({
        weight_map: {a: 'model-00001-of-00002.safetensors', b: 'model-00002-of-00002.safetensors'},
      }),
    );
    writeFileSync(join(folder, 'model-00001-of-00002.safetensors'), '');
    await expect(resolveModelFolder('org/tiny', offline)).rejects.toThrow(
      `model org/tiny: expected model-00002-of-00002.safetensors in ${folder}, got nothing there.`,
    );
  });

  test('an adapter in the cache needs only its own two files', async () => {
    const folder = join(options.cacheDir, 'models--org--adapter/snapshots', COMMIT);
    mkdirSync(join(folder, '../../refs'), {recursive: true});
    mkdirSync(folder, {recursive: true});
    writeFileSync(join(folder, '../../refs/main'), COMMIT);
    writeFileSync(join(folder, 'adapter_config.json'), '{}');
    const offline = {...options, offline: true};
    await expect(resolveModelFolder('org/adapter', offline)).rejects.toThrow(
      'expected adapter_model.safetensors in ',
    );
    writeFileSync(join(folder, 'adapter_model.safetensors'), '');
    expect(await resolveModelFolder('org/adapter', offline)).toBe(folder);
  });
});

describe('data sets', () => {
  let tokenizer: Tokenizer;

  beforeAll(async () => {
    tokenizer = await llamaTokenizer();
  });

  async function answers(
    dataset: string,
    datasetDir: string | DatasetInfo,
    hubOptions: HubOptions = options,
  ) {
    const examples = await loadDataset({
      dataset,
      datasetDir,
      template: 'llama3',
      tokenizer,
      hub: hubOptions,
      streaming: false,
    });
    return examples.map(({labels}) =>
      tokenizer.decode(
        labels!.filter((label) => label >= 0),
        {skipSpecialTokens: true},
      ),
    );
  }

  test('by id, by dataset_info.json, and by such a file on the hub', async () => {
    expect(await answers('org/pairs', 'ONLINE')).toEqual(['train0', 'train1']);
    const info: DatasetInfo = {test: {hf_hub_url: 'org/pairs', split: 'test'}};
    expect(await answers('test', info)).toEqual(['test0']);
    expect(await answers('pairs', 'REMOTE:org/described')).toEqual(['train0', 'train1']);
    expect(existsSync(join(options.cacheDir, 'datasets--org--pairs/snapshots', COMMIT, 'README.md'))).toBe(
      false,
    );
  });

  test('configurations of the README', async () => {
    const of = (subset: string, split?: string): DatasetInfo => ({
      x: {hf_hub_url: 'org/configured', subset, split},
    });
    expect(await answers('x', of('en'))).toEqual(['hello']);
    expect(await answers('x', of('fr'))).toEqual(['bonjour']);
    expect(await answers('x', of('fr', 'test'))).toEqual(['salut']);
    expect(await answers('x', of('fr'), {...options, offline: true})).toEqual(['bonjour']);
    await expect(answers('x', of('de'))).rejects.toMatchObject({
      code: 'INVALID_CONFIG',
      message: "dataset org/configured subset: expected one of en, fr, got 'de'. Nearest: en.",
    });
    await expect(answers('org/configured', 'ONLINE')).rejects.toThrow(
      'expected one of en, fr, got none. Choose one.',
    );
    await expect(answers('x', of('fr', 'tset'))).rejects.toThrow(
      "dataset org/configured split: expected data files for 'tset' in fr, got the splits train, test. Nearest: test.",
    );
  });

  test('offline', async () => {
    const offline = {...options, offline: true};
    await expect(answers('org/pairs', 'ONLINE', offline)).rejects.toThrow(
      "dataset org/pairs: expected the data files (json, jsonl, csv, parquet or txt) of the split 'train' in ",
    );
    await answers('org/pairs', 'ONLINE');
    expect(await answers('org/pairs', 'ONLINE', offline)).toEqual(['train0', 'train1']);
    const info: DatasetInfo = {test: {hf_hub_url: 'org/pairs', split: 'test'}};
    await expect(answers('test', info, offline)).rejects.toThrow(
      `dataset org/pairs: expected data/test-00000-of-00001.jsonl in ${join(options.cacheDir, 'datasets--org--pairs', 'snapshots', COMMIT)}`,
    );
  });

  test.each<[string[], object, string[]]>([
    [['data.json'], {}, ['data.json']],
    [['train.csv', 'valid.csv'], {split: 'validation'}, ['valid.csv']],
    [['my-train_1.jsonl', 'training.jsonl', 'strain.jsonl'], {}, ['my-train_1.jsonl', 'training.jsonl']],
    [['train/a.json', 'dev/train.json'], {}, ['train/a.json']],
    [['en/train.json', 'fr/train.json'], {subset: 'fr'}, ['fr/train.json']],
    [['x/en/train.json', 'train.json'], {folder: './x/en/'}, ['x/en/train.json']],
    [
      ['data/odd-00000-of-00001-abc.parquet', 'train.json'],
      {split: 'odd'},
      ['data/odd-00000-of-00001-abc.parquet'],
    ],
  ])('files %j, %j → %j', (paths, part, files) => {
    expect(datasetFiles({paths}, {id: 'x', split: 'train', ...part}, () => true)).toEqual(files);
  });

  test.each<[string, string[]]>([
    ['*.json', ['a.json', 'b1.json']],
    ['**/*.json', ['a.json', 'b1.json', 'd/e.json', 'd/f/g.json']],
    ['d/**', ['d/e.json', 'd/f/g.json', 'd/h(1)+.csv']],
    ['?[0-9].json', ['b1.json']],
    ['{a,d/e}.json', ['a.json', 'd/e.json']],
    ['d/h(1)+.csv', ['d/h(1)+.csv']],
  ])('pattern %s', (pattern, files) => {
    const paths = ['a.json', 'b1.json', 'd/e.json', 'd/f/g.json', 'd/h(1)+.csv'];
    const card = {configs: [{config_name: 'default', data_files: pattern}]};
    expect(datasetFiles({paths, card}, {id: 'x', split: 'train'}, () => true)).toEqual(files);
  });
});

test('the environment sets options', () => {
  expect(
    huggingFaceEnvironment({HF_HOME: '/h', HF_TOKEN: 't', HF_ENDPOINT: 'http://e', HF_HUB_OFFLINE: 'Yes'}),
  ).toEqual({
    hub: {endpoint: 'http://e', token: 't', cacheDir: join('/h', 'hub'), offline: true},
    tokenizedCache: join('/h', 'tfjs-lora'),
  });
  const {hub: plain} = huggingFaceEnvironment({XDG_CACHE_HOME: '/x', HF_HUB_OFFLINE: '0', HF_TOKEN: ''});
  expect(plain).toEqual({cacheDir: join('/x', 'huggingface', 'hub'), offline: false});
  expect(huggingFaceEnvironment({HF_HUB_CACHE: '/c'}).hub.cacheDir).toBe('/c');
});

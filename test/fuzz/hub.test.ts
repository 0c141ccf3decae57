import {createHash} from 'node:crypto';
import {mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {datasetFiles} from '../../src/data/hub/datasetFiles.ts';
import {fetchSnapshot} from '../../src/data/hub/fetchSnapshot.ts';
import {resolveModelFolder} from '../../src/data/hub/resolveModelFolder.ts';
import {FakeHub, type FakeRepository} from '../src/data/hub/fakeHub.ts';
import {fuzz, type Target} from './fuzz.ts';
import {mutateJson} from './mutate.ts';

/* What a hub answers: whatever it is, a typed error or files, and nothing outside the cache changes. */

const COMMIT = 'f'.repeat(40);
const files: Record<string, string> = {
  'config.json': '{}',
  'tokenizer.json': '{}',
  'tokenizer_config.json': '{}',
  'model.safetensors': 'weights',
  'data/train.json': '[]',
  'data/test.json': '[]',
};
const entries = Object.entries(files).map(([path, text]) => ({
  type: 'file',
  path,
  size: text.length,
  oid: createHash('sha1').update(`blob ${text.length}\0${text}`).digest('hex'),
  ...(path.endsWith('.safetensors') && {
    lfs: {oid: createHash('sha256').update(text).digest('hex'), size: text.length, pointerSize: 100},
  }),
}));
const card = {
  configs: [
    {
      config_name: 'default',
      data_dir: 'data',
      data_files: [{split: 'train', path: ['**/train*.json', '{a,b}?.json']}],
    },
    {config_name: 'other', data_files: 'data/[a-z]*.json'},
  ],
};
const about = {
  _id: '1',
  id: 'org/any',
  sha: COMMIT,
  cardData: card,
  lastModified: '2024-07-26T00:00:00.000Z',
};
const index = {metadata: {total_size: 7}, weight_map: {a: 'model.safetensors', b: 'model.safetensors'}};

let root: string;
let hub: FakeHub;
let endpoint: string;
const repository: FakeRepository = {kind: 'dataset', id: 'org/any', commit: COMMIT, files};
const model: FakeRepository = {...repository, kind: 'model', id: 'org/model'};

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'tfjs-lora-fuzz-hub-'));
  writeFileSync(join(root, 'passwd'), 'mine');
  hub = new FakeHub([repository, model]);
  endpoint = await hub.start();
});
afterAll(async () => {
  await hub.stop();
  rmSync(root, {recursive: true});
});

/** Answers with a cache of its own for each, deep enough for `..` to stay in the temporary folder. */
async function withCache<T>(read: (options: object) => Promise<T>): Promise<T> {
  const cacheDir = join(root, 'a/b/c/d/cache');
  try {
    return await read({endpoint, cacheDir, retryDelay: 0});
  } finally {
    rmSync(cacheDir, {recursive: true, force: true});
    const around = readdirSync(root, {recursive: true}).map(String).sort();
    expect(around.filter((path) => !/^a(\/b(\/c(\/d)?)?)?$/.test(path))).toEqual(['passwd']);
    expect(readFileSync(join(root, 'passwd'), 'utf8')).toBe('mine');
  }
}

const fetchData = () =>
  withCache((options) =>
    fetchSnapshot(
      {
        repository: {kind: 'dataset', id: 'org/any'},
        select: (contents) =>
          datasetFiles(contents, {id: 'org/any', split: 'train'}, (path) => path.endsWith('.json')),
        needed: 'data',
      },
      options,
    ),
  );

const TARGETS: Record<string, Target<string>> = {
  listing: {
    draw: (dice) => mutateJson(entries, dice),
    read: (text) => {
      repository.info = {...about, cardData: undefined};
      repository.tree = Buffer.from(text);
      return fetchData();
    },
  },
  'listing of a model': {
    draw: (dice) => mutateJson(entries, dice),
    read: (text) => {
      model.tree = Buffer.from(text);
      model.files = files;
      return withCache((options) => resolveModelFolder('org/model', options));
    },
  },
  'about a repository': {
    draw: (dice) => mutateJson(about, dice),
    read: (text) => {
      repository.info = Buffer.from(text);
      repository.tree = undefined;
      return fetchData();
    },
  },
  index: {
    draw: (dice) => mutateJson(index, dice),
    read: (text) => {
      model.tree = undefined;
      model.files = {...files, 'model.safetensors.index.json': text};
      return withCache((options) => resolveModelFolder('org/model', options));
    },
  },
};

const COUNT = 250;

test.each(Object.keys(TARGETS))('%s', async (name) => {
  expect(await fuzz(name, TARGETS[name], COUNT)).toBeGreaterThan(0);
});

import {createHash} from 'node:crypto';
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import type {Tokenizer} from '../../../../models/tokenizer.ts';
import {setWarningHandler} from '../../../../quant/warn.ts';
import {datasetFiles} from '../../../../src/data/hub/datasetFiles.ts';
import {fetchSnapshot} from '../../../../src/data/hub/fetchSnapshot.ts';
import type {HubOptions} from '../../../../src/data/hub/hubOptions.ts';
import {resolveModelFolder} from '../../../../src/data/hub/resolveModelFolder.ts';
import {loadDataset} from '../../../../src/data/loadDataset.ts';
import {llamaTokenizer} from '../llamaTokenizer.ts';
import {FakeHub, type FakeRepository} from './fakeHub.ts';

/* A malicious hub: nothing outside its part of the cache may be written, removed or read. */

const COMMIT = 'd'.repeat(40);
const files = {
  'config.json': '{}',
  'model.safetensors': 'weights',
  'tokenizer.json': '{}',
  'tokenizer_config.json': '{}',
};
const model = (change: Partial<FakeRepository>): FakeRepository => ({
  kind: 'model',
  id: 'org/evil',
  commit: COMMIT,
  files,
  ...change,
});

let root: string;
let hub: FakeHub;
let options: HubOptions;
let handler: (message: string) => void;

async function start(...repositories: FakeRepository[]): Promise<void> {
  hub = new FakeHub(repositories);
  options = {endpoint: await hub.start(), cacheDir: join(root, 'deep/inside/cache'), retryDelay: 1};
}

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'tfjs-lora-hostile-'));
  writeFileSync(join(root, 'x.json'), 'mine');
  handler = setWarningHandler(() => {});
});
afterEach(async () => {
  setWarningHandler(handler);
  await hub?.stop();
  rmSync(root, {recursive: true});
});

const gitHash = (text: string) => createHash('sha1').update(`blob ${text.length}\0${text}`).digest('hex');
const entry = (path: unknown, change: object = {}) => ({
  type: 'file',
  path,
  size: 2,
  oid: gitHash('{}'),
  ...change,
});
const everythingBelow = (folder: string) =>
  readdirSync(folder, {recursive: true})
    .map(String)
    .filter((path) => lstatSync(join(folder, path)).isFile())
    .sort();

describe('paths', () => {
  test.each([
    ['..'],
    ['../../../../../../x.json'],
    ['a/../../x.json'],
    ['/etc/x.json'],
    ['a//x.json'],
    ['./x.json'],
    ['C:/x.json'],
    ['c:x.json'],
    ['a\\x.json'],
    ['..\\..\\x.json'],
    ['a\0.json'],
    ['a\n.json'],
    ['\ud800.json'],
    [`${'é'.repeat(150)}.json`],
    ['a/'],
    [''],
  ])('%j is refused', async (path) => {
    await start(model({kind: 'dataset', tree: [entry(path)]}));
    const fetching = fetchSnapshot(
      {repository: {kind: 'dataset', id: 'org/evil'}, select: ({paths}) => paths, needed: 'all'},
      options,
    );
    await expect(fetching).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringMatching(
        /^dataset org\/evil listing: expected a path inside the repository, got "/,
      ),
    });
    expect(hub.requests.filter((request) => request.includes('/resolve/'))).toEqual([]);
    expect(everythingBelow(root)).toEqual(['x.json']);
    expect(readFileSync(join(root, 'x.json'), 'utf8')).toBe('mine');
  });

  test('one that is not needed is harmless', async () => {
    await start(model({tree: [...Object.keys(files).map((path) => listed(path)), entry('../../x.json')]}));
    const folder = await resolveModelFolder('org/evil', options);
    expect(readdirSync(folder).sort()).toEqual(Object.keys(files).sort());
    expect(readFileSync(join(root, 'x.json'), 'utf8')).toBe('mine');
  });

  test('a file that is also a folder is refused', async () => {
    await start(model({kind: 'dataset', tree: [entry('a'), entry('a/b.json')]}));
    const fetching = fetchSnapshot(
      {repository: {kind: 'dataset', id: 'org/evil'}, select: ({paths}) => paths, needed: 'all'},
      options,
    );
    await expect(fetching).rejects.toThrow(
      'dataset org/evil listing: expected files, got "a" as a folder too.',
    );
  });

  const listed = (path: string, change: object = {}) => {
    const text = files[path as keyof typeof files];
    return entry(path, {size: text.length, oid: gitHash(text), ...change});
  };

  test.each([
    ['lfs with dots', {lfs: {oid: '../../../../../../x.json', size: 2, pointerSize: 1}}],
    ['lfs too short', {lfs: {oid: 'abc', size: 2, pointerSize: 1}}],
    ['lfs in capitals', {lfs: {oid: 'A'.repeat(64), size: 2, pointerSize: 1}}],
    ['git with dots', {oid: '../../../../../../x.json'}],
    ['git of a SHA-256', {oid: 'a'.repeat(64)}],
    ['git empty', {oid: ''}],
  ])('hash: %s is refused', async (_, change) => {
    writeFileSync(join(root, 'x.json'), '{}'); // of the announced size
    await start(
      model({
        tree: Object.keys(files).map((path) =>
          path === 'config.json' ? listed(path, change) : listed(path),
        ),
      }),
    );
    await expect(resolveModelFolder('org/evil', options)).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringMatching(
        /^model org\/evil listing config\.json: expected a hash of (40|64) hexadecimal digits, got "/,
      ),
    });
    expect(everythingBelow(root)).toEqual(['x.json']);
  });

  test('an invalid commit is refused', async () => {
    await start(model({info: {_id: '1', id: 'org/evil', sha: '../../../../..', lastModified: '2024-07-26'}}));
    await expect(resolveModelFolder('org/evil', options)).rejects.toMatchObject({code: 'NETWORK'});
    expect(everythingBelow(root)).toEqual(['x.json']);
  });

  test('an index that names files elsewhere is refused', async () => {
    const index = JSON.stringify({weight_map: {a: '../../../x.json'}});
    await start(model({files: {...files, 'model.safetensors.index.json': index}}));
    await expect(resolveModelFolder('org/evil', options)).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringContaining(
        'weight_map: expected a path inside the repository, got "../../../x.json".',
      ),
    });
  });

  test.each([['{'], ['[]'], ['null'], ['{"weight_map": null}'], ['{"weight_map": {"a": 1}}']])(
    'an invalid index (%s) is refused',
    async (index) => {
      await start(model({files: {...files, 'model.safetensors.index.json': index}}));
      await expect(resolveModelFolder('org/evil', options)).rejects.toMatchObject({code: 'CORRUPT_FILE'});
    },
  );
});

describe('names', () => {
  test.each(['../x', 'a/b/c', 'a/..', '.', '-/..', 'a b', 'a\\b', ''])(
    'of a data set, %j, is refused',
    async (id) => {
      await start();
      const repository = {kind: 'dataset', id} as const;
      await expect(fetchSnapshot({repository, select: () => [], needed: ''}, options)).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
      });
      expect(hub.requests).toEqual([]);
    },
  );

  test.each(['../../../../x', '/x', 'a\\b'])('of a revision, %j, is refused', async (revision) => {
    await start(model({}));
    await expect(resolveModelFolder('org/evil', {...options, revision})).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });
});

describe('links of the cache', () => {
  const snapshot = () => join(options.cacheDir as string, 'models--org--evil/snapshots', COMMIT);

  test('a link out of the cache is not followed, and the file is fetched', async () => {
    await start(model({}));
    mkdirSync(snapshot(), {recursive: true});
    writeFileSync(join(root, 'x.json'), '{}');
    symlinkSync(join(root, 'x.json'), join(snapshot(), 'config.json'));
    mkdirSync(join(snapshot(), '../../refs'), {recursive: true});
    writeFileSync(join(snapshot(), '../../refs/main'), COMMIT);
    const folder = await resolveModelFolder('org/evil', options);
    expect(readFileSync(join(folder, 'config.json'), 'utf8')).toBe('{}');
    expect(hub.requests).toContain(`/org/evil/resolve/${COMMIT}/config.json`);
    writeFileSync(join(root, 'x.json'), 'changed');
    expect(readFileSync(join(folder, 'config.json'), 'utf8')).toBe('{}');
  });

  test('nothing is written through a folder that is a link', async () => {
    await start({...model({files: {'data/a.json': '[]'}}), kind: 'dataset'});
    const folder = join(options.cacheDir as string, 'datasets--org--evil/snapshots', COMMIT);
    mkdirSync(folder, {recursive: true});
    mkdirSync(join(root, 'outside'));
    symlinkSync(join(root, 'outside'), join(folder, 'data'));
    const repository = {kind: 'dataset', id: 'org/evil'} as const;
    await expect(
      fetchSnapshot({repository, select: ({paths}) => paths, needed: 'all'}, options),
    ).rejects.toMatchObject({code: 'CORRUPT_FILE', message: expect.stringContaining('got a file or a link')});
    expect(readdirSync(join(root, 'outside'))).toEqual([]);
  });
});

describe('answers', () => {
  test.each<[string, Partial<FakeRepository>]>([
    ['null', {tree: null}],
    ['not a list', {tree: {a: 1}}],
    ['a list of null', {tree: [null]}],
    ['a path that is not text', {tree: [entry(7)]}],
    ['an invalid size', {tree: [entry('config.json', {size: -1})]}],
    ['lfs that is text', {tree: [entry('config.json', {lfs: 'x'})]}],
    ['about the repository: null', {info: null}],
    ['about the repository: a list', {info: []}],
  ])('%s', async (_, change) => {
    await start(model(change));
    await expect(resolveModelFolder('org/evil', options)).rejects.toMatchObject({code: 'NETWORK'});
  });
});

describe('cards', () => {
  const paths = ['a.json', 'b.json'];
  const files = (card: unknown) => datasetFiles({paths, card}, {id: 'x', split: 'train'}, () => true);

  test.each([
    null,
    {},
    {configs: null},
    {configs: []},
    {configs: [{config_name: null, data_dir: null, data_files: null, default: null}]},
  ])('%j says nothing', (card) => {
    expect(files(card)).toEqual(paths);
  });

  test.each([
    {configs: [null]},
    {configs: ['a']},
    {configs: [{data_files: [null]}]},
    {configs: [{data_files: {a: 'b'}}]},
    {configs: [{data_files: [{split: 'train', path: null}]}]},
    {configs: [{data_files: [{split: null, path: 'a.json'}]}]},
    {configs: [{config_name: 7, data_files: 'a.json'}]},
    {configs: [{config_name: {toString: null}}]},
    {configs: [{data_dir: ['a']}]},
  ])('%j is refused', (card) => {
    expect(() => files(card)).toThrow(
      expect.objectContaining({
        code: 'CORRUPT_FILE',
        message: expect.stringMatching(
          /^dataset x README configs\.0.*: expected a configuration of data files, got /,
        ),
      }),
    );
  });

  test('patterns take time that is linear in the length', () => {
    const long = `${'a/'.repeat(30)}b`;
    const match = (glob: string) =>
      datasetFiles(
        {paths: [long, 'x.json'], card: {configs: [{data_files: ['x.json', glob]}]}},
        {id: 'x', split: 'train'},
        () => true,
      );
    expect(match(`${'**/'.repeat(25)}c`)).toEqual(['x.json']);
    expect(match(`${'*'.repeat(500)}c`)).toEqual(['x.json']);
    expect(match('{a,b}**b')).toEqual(['x.json', long]);
    expect(() => match('[z-a]')).toThrow(expect.objectContaining({code: 'INVALID_ARGUMENT'}));
    const many = Array.from({length: 20_000}, (_, i) => `${'*a'.repeat(40)}${i}`);
    expect(() =>
      datasetFiles(
        {paths: many, card: {configs: [{data_files: many}]}},
        {id: 'x', split: 'train'},
        () => true,
      ),
    ).toThrow(expect.objectContaining({code: 'INVALID_CONFIG'}));
  });
});

describe('dataset_info.json of the hub', () => {
  const records = '[{"instruction": "q", "output": "from the repository"}]';
  const described = (name: string): FakeRepository => ({
    kind: 'dataset',
    id: 'org/described',
    commit: COMMIT,
    files: {
      'dataset_info.json': JSON.stringify({pairs: {file_name: name}}),
      'data/pairs.json': records,
    },
  });
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await llamaTokenizer();
  });
  const load = async (datasetDir: string) => {
    const shared = {dataset: 'pairs', template: 'llama3', tokenizer, hub: options, streaming: false} as const;
    const [{labels}] = await loadDataset({...shared, datasetDir});
    return tokenizer.decode(
      labels!.filter((label) => label >= 0),
      {skipSpecialTokens: true},
    );
  };

  test.each(['../../../../../../x.json', '/etc/passwd', 'C:\\x.json', '..'])(
    'may not name %s',
    async (name) => {
      await start(described(name));
      await expect(load('REMOTE:org/described')).rejects.toMatchObject({
        code: 'INVALID_CONFIG',
        message: expect.stringMatching(
          /^dataset_info\.json of dataset org\/described, pairs file_name: expected a file inside that repository, got "/,
        ),
      });
    },
  );

  test.each(['data/pairs.json', './data/pairs.json', 'data', 'data/'])(
    'may name its own %s',
    async (name) => {
      await start(described(name));
      expect(await load('REMOTE:org/described')).toBe('from the repository');
    },
  );

  test('names a missing file', async () => {
    await start(described('data/pears.json'));
    await expect(load('REMOTE:org/described')).rejects.toThrow(
      'dataset pairs file_name: expected a file or folder of the repository, got data/pears.json. Nearest: data/pairs.json',
    );
  });

  test('a local one may name any file', async () => {
    await start();
    const elsewhere = join(root, 'elsewhere.json');
    writeFileSync(elsewhere, records);
    mkdirSync(join(root, 'mine'));
    for (const name of [elsewhere, '../elsewhere.json']) {
      writeFileSync(join(root, 'mine/dataset_info.json'), JSON.stringify({pairs: {file_name: name}}));
      expect(await load(join(root, 'mine'))).toBe('from the repository');
    }
  });
});

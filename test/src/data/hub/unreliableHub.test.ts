import {spawn} from 'node:child_process';
import {createHash} from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {setWarningHandler} from '../../../../quant/warn.ts';
import type {HubOptions} from '../../../../src/data/hub/hubOptions.ts';
import {resolveModelFolder} from '../../../../src/data/hub/resolveModelFolder.ts';
import {compiledScript} from '../../../compiledScript.ts';
import {FakeHub, type FakeRepository} from './fakeHub.ts';

/* Networks that drop connections, damaged files, and concurrent downloads. */

const DOWNLOAD = compiledScript(join(__dirname, 'download.ts'));
const COMMIT = 'e'.repeat(40);
const SIZE = 3_000_000;
const weights = Buffer.from(Array.from({length: SIZE}, (_, i) => (i * 13) % 251));
const sha256 = createHash('sha256').update(weights).digest('hex');
const model: FakeRepository = {
  kind: 'model',
  id: 'org/tiny',
  commit: COMMIT,
  files: {
    'config.json': '{}',
    'model.safetensors': weights,
    'tokenizer.json': '{}',
    'tokenizer_config.json': '{}',
  },
  large: ['model.safetensors'],
};

let hub: FakeHub;
let options: HubOptions & {cacheDir: string};
let warnings: string[];
let handler: (message: string) => void;
let limit: AbortController;

beforeEach(async () => {
  limit = new AbortController();
  hub = new FakeHub([model]);
  const cacheDir = mkdtempSync(join(tmpdir(), 'tfjs-lora-unreliable-'));
  options = {endpoint: await hub.start(), cacheDir, retryDelay: 1};
  warnings = [];
  handler = setWarningHandler((message) => warnings.push(message));
});
afterEach(async () => {
  limit.abort();
  setWarningHandler(handler);
  await hub.stop();
  rmSync(options.cacheDir, {recursive: true});
});

const blobs = () => join(options.cacheDir, 'models--org--tiny/blobs');
const leftovers = () => readdirSync(blobs()).filter((name) => name.endsWith('.incomplete'));
const isOfWeights = (name: string) => name.startsWith(sha256);
const weightRequests = () => hub.requests.filter((request) => request.includes('model.safetensors'));
/** Compares buffers as a whole, for which jest would take seconds. */
const isWhole = (folder: string) => readFileSync(join(folder, 'model.safetensors')).equals(weights);

/** Waits for a condition; the test's time limit ends the wait otherwise. */
async function until(isSo: () => boolean): Promise<void> {
  const {signal} = limit;
  while (!isSo()) {
    signal.throwIfAborted();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Downloads in a separate process. */
function download(): {
  process: ReturnType<typeof spawn>;
  ended: Promise<{code: number | null; text: string}>;
} {
  const args = [DOWNLOAD, options.endpoint as string, options.cacheDir, 'org/tiny'];
  const child = spawn(process.execPath, args);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (text += data));
  return {
    process: child,
    ended: new Promise((resolve) => child.on('close', (code) => resolve({code, text}))),
  };
}

describe('two concurrent downloads', () => {
  test('in two processes', async () => {
    hub.together = {path: 'model.safetensors', count: 2}; // neither gets a byte before both have sent a request
    const ended = await Promise.all([download().ended, download().ended]);
    expect(ended.map(({code}) => code)).toEqual([0, 0]);
    const folder = ended[0].text.trim().split('\n').at(-1) as string;
    expect(isWhole(folder)).toBe(true);
    expect(leftovers()).toEqual([]);
    expect(weightRequests()).toHaveLength(2);
  });

  test('in one', async () => {
    hub.together = {path: 'model.safetensors', count: 3};
    const folders = await Promise.all([1, 2, 3].map(() => resolveModelFolder('org/tiny', options)));
    for (const folder of folders) expect(isWhole(folder)).toBe(true);
    expect(leftovers()).toEqual([]);
  });

  test('nothing is taken of a file that another one is still writing', async () => {
    hub.together = {path: 'model.safetensors', count: 2};
    const {process: other, ended} = download();
    try {
      await until(() => weightRequests().length > 0);
      const folder = await resolveModelFolder('org/tiny', options);
      expect(isWhole(folder)).toBe(true);
      expect(weightRequests().every((request) => !request.includes('bytes='))).toBe(true);
      expect((await ended).code).toBe(0);
      expect(isWhole(folder)).toBe(true);
    } finally {
      other.kill('SIGKILL');
    }
  });
});

describe('an interrupted download', () => {
  test('continues where a killed process left it', async () => {
    hub.stallAfter = 2_000_000; // the connection stays open
    const {process: child, ended} = download();
    const sizeSoFar = () =>
      existsSync(blobs())
        ? Math.max(
            0,
            ...leftovers()
              .filter(isOfWeights)
              .map((name) => statSync(join(blobs(), name)).size),
          )
        : 0;
    await until(() => sizeSoFar() === 2_000_000);
    child.kill('SIGKILL');
    await ended;
    hub.stallAfter = undefined;
    hub.requests.length = 0;
    const folder = await resolveModelFolder('org/tiny', options);
    expect(isWhole(folder)).toBe(true);
    expect(weightRequests()).toEqual([expect.stringContaining(' bytes=2000000-')]);
    expect(leftovers()).toEqual([]);
  });

  test('continues each time the connection drops', async () => {
    hub.breakAfter = 1_200_000; // of the rest each time
    hub.breaks = 20;
    const folder = await resolveModelFolder('org/tiny', options);
    expect(isWhole(folder)).toBe(true);
    const [first, ...others] = weightRequests();
    expect(first).not.toContain('bytes=');
    expect(others.length).toBeGreaterThan(1);
    expect(others.every((request) => request.includes('bytes='))).toBe(true);
  });

  test('starts again when the server sends the whole file', async () => {
    const partial = join(blobs(), `${sha256}.incomplete`);
    await resolveModelFolder('org/tiny', options);
    rmSync(join(blobs(), sha256));
    writeFileSync(partial, weights.subarray(0, 1000));
    hub.ignoresRanges = true;
    const folder = await resolveModelFolder('org/tiny', options);
    expect(isWhole(folder)).toBe(true);
    expect(weightRequests().at(-1)).toContain('bytes=1000-');
  });

  test.each([
    ['other bytes', Buffer.alloc(150_000, 'x')],
    ['the same number of other bytes', Buffer.alloc(SIZE, 'x')],
    ['more bytes', Buffer.alloc(SIZE + 1, 'x')],
  ])('that left %s is started again', async (_, bytes) => {
    await resolveModelFolder('org/tiny', options);
    rmSync(join(blobs(), sha256));
    writeFileSync(join(blobs(), `${sha256}.incomplete`), bytes);
    const folder = await resolveModelFolder('org/tiny', options);
    expect(isWhole(folder)).toBe(true);
  });
});

describe('a damaged blob', () => {
  beforeEach(() => resolveModelFolder('org/tiny', options));
  const damage = (bytes: Buffer) => {
    writeFileSync(join(blobs(), sha256), bytes);
    utimesSync(join(blobs(), sha256), 1, 1); // regardless of the clock's resolution
  };

  test.each([
    ['a changed byte', Buffer.concat([Buffer.from([9]), weights.subarray(1)])],
    ['too few bytes', weights.subarray(1)],
    ['none', Buffer.alloc(0)],
  ])('%s: is fetched again', async (_, bytes) => {
    damage(bytes);
    const asked = weightRequests().length;
    const folder = await resolveModelFolder('org/tiny', options);
    expect(isWhole(folder)).toBe(true);
    expect(weightRequests()).toHaveLength(asked + 1);
    await resolveModelFolder('org/tiny', options);
    expect(weightRequests()).toHaveLength(asked + 1);
  });

  test('is not used offline', async () => {
    damage(Buffer.concat([Buffer.from([9]), weights.subarray(1)]));
    const offline = {...options, offline: true};
    await expect(resolveModelFolder('org/tiny', offline)).rejects.toThrow(
      /^model org\/tiny: expected model\.safetensors in .*, got damaged contents \(offline\)\./,
    );
    rmSync(join(options.cacheDir, 'models--org--tiny/.tfjs-lora'), {recursive: true}); // as Python left it
    await expect(resolveModelFolder('org/tiny', offline)).rejects.toThrow('got damaged contents');
    damage(weights);
    await resolveModelFolder('org/tiny', offline);
  });

  test('with a wrong hash on arrival is not kept', async () => {
    rmSync(join(blobs(), sha256));
    hub.corruption = Buffer.alloc(SIZE, 'x');
    await expect(resolveModelFolder('org/tiny', options)).rejects.toMatchObject({code: 'CORRUPT_FILE'});
    expect(readdirSync(blobs()).filter((name) => name.startsWith(sha256))).toEqual([]);
    hub.corruption = Buffer.alloc(SIZE + 1, 'x');
    await expect(resolveModelFolder('org/tiny', options)).rejects.toMatchObject({code: 'CORRUPT_FILE'});
    hub.corruption = undefined;
    expect(isWhole(await resolveModelFolder('org/tiny', options))).toBe(true);
  });
});

describe('a network that fails', () => {
  test.each([408, 429, 500, 503])('status %d is tried again', async (status) => {
    hub.refusals = {status, count: 4};
    expect(isWhole(await resolveModelFolder('org/tiny', options))).toBe(true);
  });

  test('gives up after some attempts, with a network error', async () => {
    hub.refusals = {status: 503, count: 1000};
    await expect(resolveModelFolder('org/tiny', options)).rejects.toMatchObject({
      code: 'NETWORK',
      message: expect.stringMatching(
        /^model org\/tiny: expected .* \(http.* cannot be reached: status 503\)/,
      ),
    });
    expect(hub.requests).toHaveLength(5);
  });

  test('gives up a download that makes no progress', async () => {
    hub.breakAfter = 0;
    hub.breaks = Number.POSITIVE_INFINITY;
    await expect(resolveModelFolder('org/tiny', options)).rejects.toMatchObject({
      code: 'NETWORK',
      message: expect.stringMatching(
        /config\.json cannot be downloaded: the connection ended after 0 of 2 bytes/,
      ),
    });
  });

  test('waits as long as the server asks for, unless that is too long', async () => {
    hub.refusals = {status: 429, count: 1, headers: {'retry-after': '0'}};
    await resolveModelFolder('org/tiny', options);
    hub.refusals = {status: 429, count: 1, headers: {'retry-after': '86400'}};
    await resolveModelFolder('org/tiny', options); // from the cache
    expect(warnings.join()).toContain('status 429; the server asks to wait 86400 s. Using the cached');
  });

  test('gives up a silent connection, and continues on another', async () => {
    hub.stallAfter = 1_500_000; // of the requested bytes; the rest arrives on the second connection
    const folder = await resolveModelFolder('org/tiny', {...options, idleTimeout: 500});
    expect(isWhole(folder)).toBe(true);
    expect(weightRequests().at(-1)).toContain('bytes=1500000-');
  });

  test('a redirect loop', async () => {
    hub.isLoop = true;
    await expect(resolveModelFolder('org/tiny', options)).rejects.toMatchObject({
      code: 'NETWORK',
      message: expect.stringContaining('redirect count exceeded'),
    });
  });

  test('a missing host', async () => {
    await hub.stop();
    await expect(resolveModelFolder('org/tiny', options)).rejects.toMatchObject({
      code: 'NETWORK',
      message: expect.stringContaining('cannot be reached: ECONNREFUSED'),
    });
    hub = new FakeHub([]);
    await hub.start();
  });

  test('a signal stops the pauses', async () => {
    hub.refusals = {status: 503, count: 1000};
    const controller = new AbortController();
    const fetching = resolveModelFolder('org/tiny', {
      ...options,
      retryDelay: 200_000,
      signal: controller.signal,
    });
    await until(() => hub.requests.length > 0);
    controller.abort(new Error('enough'));
    await expect(fetching).rejects.toThrow('enough');
  });

  test('a signal stops a download, and the next one continues it', async () => {
    const controller = new AbortController();
    const stopped = resolveModelFolder('org/tiny', {
      ...options,
      signal: controller.signal,
      onProgress: ({done}) => done > 500_000 && controller.abort(new Error('enough')),
    });
    await expect(stopped).rejects.toThrow('enough');
    expect(leftovers()).toHaveLength(1);
    expect(isWhole(await resolveModelFolder('org/tiny', options))).toBe(true);
    expect(weightRequests().at(-1)).toMatch(/bytes=\d+-$/);
    expect(leftovers()).toEqual([]);
  });
});

describe('credentials', () => {
  test('in the address are sent as a header, and never shown', async () => {
    const endpoint = (options.endpoint as string).replace('://', '://someone:pass%40word@');
    await resolveModelFolder('org/tiny', {...options, endpoint});
    expect(hub.authorization).toBe(`Basic ${Buffer.from('someone:pass@word').toString('base64')}`);
    await resolveModelFolder('org/tiny', {...options, endpoint, token: 'of-the-hub'});
    expect(hub.authorization).toBe('Bearer of-the-hub');
    await expect(resolveModelFolder('org/none', {...options, endpoint})).rejects.not.toThrow('pass%40word');
    await hub.stop();
    const error = await resolveModelFolder('org/none', {...options, endpoint}).catch(
      (caught: Error) => caught,
    );
    expect(`${(error as Error).message} ${(error as Error).stack} ${(error as Error).cause}`).not.toMatch(
      /pass(%40|@)word/,
    );
    hub = new FakeHub([]);
    await hub.start();
  });

  test.each(['huggingface.co', 'ftp://host', 'file:///etc', 'http://us er:se/cret-word@host'])(
    'an invalid endpoint (%s) is refused',
    async (endpoint) => {
      const error = await resolveModelFolder('org/tiny', {...options, endpoint}).catch((caught) => caught);
      expect(error).toMatchObject({code: 'INVALID_ARGUMENT'});
      expect(error.message).not.toContain('cret-word');
    },
  );
});

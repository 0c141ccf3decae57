import {execFileSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {mkdirSync, rmSync, statSync, symlinkSync, writeFileSync} from 'node:fs';
import {dirname, join, relative} from 'node:path';
import {type Browser, type BrowserContext, chromium, type Page} from 'playwright-core';
import {snippets} from '../docs/snippets.ts';
import {CHROMIUM, type Site, serveSite} from './site.ts';

/*
 * Tests the folders in the browser's storage in a real Chromium, and runs the page of docs/browser.md there: both are
 * built by vite against the built package, as a reader would.
 */

const ROOT = join(__dirname, '../..');
const SOURCES = join(ROOT, 'out/browser-storage');
const MODEL = join(ROOT, 'examples/quickstart/model');
const WASM = dirname(require.resolve('@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm'));

(CHROMIUM ? describe : describe.skip)("the browser's storage", () => {
  let site: Site;
  let browser: Browser;
  let context: BrowserContext;
  let page: Page;

  beforeAll(async () => {
    rmSync(SOURCES, {recursive: true, force: true});
    mkdirSync(join(SOURCES, 'public'), {recursive: true});
    const write = (name: string, text: string) => writeFileSync(join(SOURCES, name), text);
    for (const {name, code} of snippets()) if (name?.startsWith('training')) write(`${name}.ts`, code);
    const folder = relative(SOURCES, __dirname).replaceAll('\\', '/');
    write(
      'storagePage.ts',
      `import {StorageFolder, TaskWorker} from 'tfjs-lora/browser';
      const worker = new Worker(new URL('${folder}/storageWorker.ts', import.meta.url), {type: 'module'});
      Object.assign(window, {StorageFolder, tasks: new TaskWorker(worker)});`,
    );
    for (const name of ['trainingPage', 'storagePage'])
      write(`${name}.html`, `<!doctype html><body><script type="module" src="./${name}.ts"></script></body>`);
    write(
      'vite.config.mjs',
      `export default {
        worker: {format: 'es'},
        build: {
          target: 'es2022',
          minify: false,
          rollupOptions: {input: ['trainingPage.html', 'storagePage.html']},
        },
      };`,
    );
    const vite = join(ROOT, 'node_modules/vite/bin/vite.js');
    execFileSync(process.execPath, [vite, 'build', '--logLevel', 'error'], {cwd: SOURCES, stdio: 'pipe'});
    symlinkSync(MODEL, join(SOURCES, 'dist/model'));
    symlinkSync(WASM, join(SOURCES, 'dist/wasm'));
    site = await serveSite(join(SOURCES, 'dist'));
    browser = await chromium.launch({
      executablePath: CHROMIUM,
      args: ['--no-sandbox', '--disable-features=WebGPU,WebGPUService'],
    });
  });

  beforeEach(async () => {
    context = await browser.newContext();
    page = await context.newPage();
  });

  afterEach(() => context.close());

  afterAll(async () => {
    await browser?.close();
    await site?.close();
  });

  async function run<T>(task: string, argument?: unknown): Promise<T> {
    await page.goto(`${site.url}storagePage.html`);
    await page.waitForFunction('window.tasks');
    return page.evaluate(`tasks.run('${task}', ${JSON.stringify(argument)})`);
  }

  test('files are written, read, added to, moved and removed', async () => {
    expect(await run('files')).toEqual({
      absent: [false, [], undefined, false],
      held: {
        a: 'second',
        log: 'one\ntwo\n',
        names: ['a', 'below'],
        files: ['a', 'below/log'],
        has: [true, true, false],
        described: {bytes: 6, sha256: createHash('sha256').update('second').digest('hex')},
        parent: 'files',
      },
      moved: [['moved/log'], 'second'],
      left: ['file'],
      inFile: {
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining('folder storage:/files/file: expected a folder, got a file'),
      },
    });
    const onPage = `new StorageFolder('files').write('a', '').catch(({code, message}) => ({code, message}))`;
    expect(await page.evaluate(onPage)).toEqual({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('storage:/files/a: expected a dedicated worker to write from'),
    });
  });

  test('files that belong together appear together or not at all', async () => {
    const [first, second] = [1, 2].map((value) => [
      [value, value],
      [value, value],
    ]);
    expect(await run('together')).toEqual({
      two: [3, first],
      broken: {message: 'mine'},
      unchanged: first,
      one: [['model.safetensors'], second],
      left: ['model.safetensors'],
    });
  });

  test('a folder is held by one run at a time', async () => {
    const refusal = {
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining(
        'outputDir storage:/locked: expected a folder that no other run writes to',
      ),
    };
    expect(await run('lock')).toEqual([refusal, refusal]);
  });

  test('without room, the error says how much is needed, and older files stay', async () => {
    await page.goto(`${site.url}storagePage.html`);
    const session = await context.newCDPSession(page);
    await session.send('Storage.overrideQuotaForOrigin', {origin: site.url.slice(0, -1), quotaSize: 500_000});
    expect(await run('full', 3 << 20)).toEqual({
      refused: {
        code: 'DISK_FULL',
        message: expect.stringMatching(
          /^storage:\/full\/kept: expected room for 3\.0 MiB in the browser's storage, got less: the page uses .* of at most .*\. What was complete before is unchanged\. Free some space/,
        ),
      },
      kept: 'small',
      files: ['kept'],
    });
  });

  test('a file behind a URL is downloaded once, also by two readers, and a missing one is asked for once', async () => {
    const {size} = statSync(join(MODEL, 'config.json'));
    expect(await run('cached', `${site.url}model`)).toEqual({
      has: [true, false, true, false],
      isSame: true,
      bytes: size,
      last: {file: 'config.json', bytes: size, total: size},
      none: {
        code: 'FILE_NOT_FOUND',
        message: expect.stringContaining('/model/none.safetensors]: expected a file'),
      },
      unreachable: {
        code: 'NETWORK',
        message: expect.stringContaining('http://127.0.0.1:1/config.json: expected'),
      },
    });
    const asked = (name: string) => site.requests.filter((path) => path === `/model/${name}`);
    expect(['config.json', 'none.json'].map((name) => asked(name).length)).toEqual([1, 1]);
  });

  test('the page of the guide trains, and finds model and training again', async () => {
    const train = async () => {
      await page.goto(`${site.url}trainingPage.html`);
      await page.waitForFunction(`/^(trained|[^:]*: expected)/.test(document.body.textContent)`);
      return page.textContent('body');
    };
    expect(await train()).toBe('trained adapter_model.safetensors and adapter_config.json');
    const asked = site.requests.filter((path) => path.startsWith('/model/'));
    expect(asked).toContain('/model/model.safetensors');
    expect(await train()).toBe('trained adapter_model.safetensors and adapter_config.json');
    expect(site.requests.filter((path) => path.startsWith('/model/'))).toEqual(asked);
  }, 240_000);
});

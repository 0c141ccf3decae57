import {mkdirSync} from 'node:fs';
import {join} from 'node:path';
import {type Browser, chromium, type Page, type Worker} from 'playwright-core';
import {SafetensorsFile} from '../../quant/index.ts';
import {CHROMIUM, type Site, serveSite} from './site.ts';

/*
 * Tests the built page of examples/browser in a real headless Chromium, whose WebGPU computes on the processor
 * (SwiftShader). `npm run test:browser` builds the page and runs this. TFJS_LORA_CHROMIUM names the browser.
 */

const SITE = join(__dirname, '../../out/browser');
const SHOTS = join(__dirname, '../../out/browser-test');

/** What the worker runs first. A synchronous read from WebGPU draws a canvas, so these are counted. */
const WORKER_PRELUDE = `
  self.synchronousReads = 0;
  const Canvas = self.OffscreenCanvas;
  self.OffscreenCanvas = class extends Canvas {
    constructor(...size) { super(...size); self.synchronousReads++; }
  };
  if (new URLSearchParams(self.name).has('noGPU'))
    Object.defineProperty(WorkerNavigator.prototype, 'gpu', {value: {requestAdapter: async () => null}});
`.replaceAll('\n', ' ');

if (!CHROMIUM) console.warn('skipped: the page in Chromium (none found; set TFJS_LORA_CHROMIUM)');

(CHROMIUM ? describe : describe.skip)('the page', () => {
  let site: Site;
  let browser: Browser;
  let page: Page;
  let worker: Worker;
  let problems: string[];

  beforeAll(async () => {
    mkdirSync(SHOTS, {recursive: true});
    site = await serveSite(SITE, {trainingWorker: WORKER_PRELUDE});
  });

  afterAll(() => site.close());

  afterEach(() => browser.close());

  async function launch(hasWebGPU: boolean): Promise<void> {
    const gpu = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan'];
    browser = await chromium.launch({
      executablePath: CHROMIUM,
      args: ['--no-sandbox', ...(hasWebGPU ? gpu : ['--disable-features=WebGPU,WebGPUService'])],
    });
    const context = await browser.newContext({viewport: {width: 1000, height: 900}, acceptDownloads: true});
    await visit(await context.newPage(), hasWebGPU);
  }

  async function visit(opened: Page, hasWebGPU: boolean): Promise<void> {
    page = opened;
    page.setDefaultTimeout(240_000);
    problems = [];
    page.on('pageerror', ({message}) => problems.push(message));
    page.on('worker', (started) => {
      worker = started;
    });
    if (!hasWebGPU)
      await page.addInitScript(`{
        const Own = window.Worker;
        window.Worker = class extends Own {
          constructor(url, options) { super(url, {...options, name: 'noGPU'}); }
        };
      }`);
  }

  /** Goes to the page and waits until the model has written its first summaries. */
  async function open(query: string): Promise<void> {
    await page.goto(`${site.url}?samples=1&tokens=10&${query}`);
    await settled();
  }

  async function settled(): Promise<void> {
    await page.waitForFunction(`['ready', 'failed'].includes(document.body.dataset.state)`);
    expect(await shownErrors()).toEqual([]);
  }

  const shownErrors = () => page.locator('.error:visible').allTextContents();

  /** Returns the losses of the first and the last step, and the number of steps. */
  async function trained(button = '[type=submit]'): Promise<number[]> {
    await page.click(button);
    await settled();
    const label = (await page.getAttribute('#plot', 'aria-label'))!;
    return label
      .match(/Loss from (\S+) to (\S+) in (\d+) steps/)!
      .slice(1)
      .map(Number);
  }

  const summary = () => page.textContent('.after');

  /** Saves the adapter with the page's own button, and returns the two downloaded files. */
  async function saved(): Promise<{name: string; path: string}[]> {
    const files: {name: string; path: string}[] = [];
    const both = new Promise<void>((resolve) => {
      page.on('download', async (download) => {
        const [name, path] = [download.suggestedFilename(), join(SHOTS, download.suggestedFilename())];
        await download.saveAs(path);
        files.push({name, path});
        if (files.length === 2) resolve();
      });
    });
    await page.click('#save');
    await both;
    await settled();
    return files.sort((a, b) => a.name.localeCompare(b.name));
  }

  /**
   * Measures the tasks of the page's own thread while something happens.
   *
   * @returns the longest task, in milliseconds of the thread's processor time and of the clock
   */
  async function longestTask<T>(
    work: () => Promise<T>,
  ): Promise<{processor: number; clock: number; result: T}> {
    await browser.startTracing(page, {categories: ['__metadata', 'toplevel', 'devtools.timeline']});
    const result = await work();
    const {traceEvents} = JSON.parse((await browser.stopTracing()).toString()) as {
      traceEvents: {
        name: string;
        pid: number;
        tid: number;
        dur?: number;
        tdur?: number;
        args: {name?: string};
      }[];
    };
    const mains = traceEvents.filter(
      ({name, args}) => name === 'thread_name' && args.name === 'CrRendererMain',
    );
    const tasks = traceEvents.filter(
      ({name, pid, tid}) =>
        /RunTask$/.test(name) && mains.some((main) => main.pid === pid && main.tid === tid),
    );
    expect(tasks.length).toBeGreaterThan(10);
    const longest = (key: 'dur' | 'tdur') => Math.max(...tasks.map((task) => task[key] ?? 0)) / 1000;
    return {processor: longest('tdur'), clock: longest('dur'), result};
  }

  test.each([
    ['WebGPU', 'backend=webgpu&steps=3&rank=32&batch=1&bills=1', 3, true],
    ['WebAssembly, where there is no graphics adapter', 'steps=20&batch=4', 20, false],
  ])(
    'trains on %s beside a page that stays responsive, saves the adapter and loads it again',
    async (name, query, steps, hasWebGPU) => {
      await launch(hasWebGPU);
      await open(query);
      expect(await page.textContent('#backend')).toMatch(
        hasWebGPU ? /^WebGPU on .*swiftshader/i : /^WebAssembly: simd/,
      );
      if (!hasWebGPU) {
        expect(await page.getAttribute('#backend', 'title')).toContain(
          'not webgpu: backend webgpu: expected WebGPU',
        );
      }
      const before = await page.textContent('.before');
      const compiled = hasWebGPU
        ? page.waitForSelector('#activity:has-text("compiling shaders: ")')
        : undefined;
      const {processor, clock, result} = await longestTask(() => trained());
      await compiled;
      console.info(
        `${name}: the page's longest task while the worker trained took ${processor.toFixed(1)} ms of ` +
          `processor time, ${clock.toFixed(1)} ms by the clock`,
      );
      expect(processor).toBeLessThan(50); // the clock's time grows with the machine's other work
      const [first, last, count] = result;
      expect(count).toBe(steps);
      expect(last).toBeLessThan(first);
      const after = await summary();
      expect(after).not.toBe(before);
      await page.screenshot({path: join(SHOTS, `${name.split(',')[0]}.png`), fullPage: true});

      const files = await saved();
      expect(files.map((file) => file.name)).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
      const weights = SafetensorsFile.open(files[1].path);
      expect(weights.names()).toHaveLength(2 * 7 * 4);
      weights.close();
      expect(await worker.evaluate('self.synchronousReads')).toBe(0);

      const downloads = site.requests.filter((path) => path === '/model.safetensors').length;
      await page.reload(); // a new model, which gets everything it learns from the files
      await settled();
      expect(site.requests.filter((path) => path === '/model.safetensors')).toHaveLength(downloads);
      await page.setInputFiles(
        '#load',
        files.map((file) => file.path),
      );
      await page.waitForFunction(`document.querySelector('#adapter-note').textContent !== ''`);
      await settled();
      expect(await summary()).toBe(after);
      expect(await worker.evaluate('self.synchronousReads')).toBe(0);
      expect(problems).toEqual([]);
    },
    400_000,
  );

  /** Reads the losses and the adapter that a run left in the browser's storage. */
  const storedRun = (name: string) =>
    page.evaluate(`(async () => {
      const root = await navigator.storage.getDirectory();
      const run = await (await root.getDirectoryHandle('runs')).getDirectoryHandle('${name}');
      const file = async (name) => (await run.getFileHandle(name)).getFile();
      const {log_history} = JSON.parse(await (await file('trainer_state.json')).text());
      const adapter = new Uint8Array(await (await file('adapter_model.safetensors')).arrayBuffer());
      return {losses: log_history.map(({step, loss}) => [step, loss]), adapter: adapter.join()};
    })()`);

  test('continues bit for bit after the tab was killed, and lets no second tab train in its folder', async () => {
    await launch(false);
    const query = 'backend=wasm&samples=0&steps=12&batch=1&bills=5&save=2';
    await open(`${query}&run=whole`);
    expect(await trained()).toHaveLength(3);
    const whole = await storedRun('whole');

    const second = await page.context().newPage();
    await second.goto(`${site.url}?${query}&run=killed`);
    await second.waitForFunction(`document.body.dataset.state === 'ready'`);
    await open(`${query}&run=killed`);
    await page.click('[type=submit]');
    await page.waitForFunction(`Number.parseInt(document.querySelector('#step').textContent) >= 3`);
    await second.click('[type=submit]');
    await second.waitForSelector('#training .error:visible');
    const refusal = await second.textContent('#training .error');
    await second.close();
    const session = await page.context().newCDPSession(page);
    const crashed = page.waitForEvent('crash');
    void session.send('Page.crash').catch(() => {});
    await crashed;

    await visit(await page.context().newPage(), false);
    await open(`${query}&run=killed`);
    expect(await page.textContent('#resume')).toMatch(/^Resume after step ([2468]|10) of 12$/);
    expect((await trained('#resume'))[2]).toBe(12);
    expect(await storedRun('killed')).toEqual(whole);
    expect(refusal).toMatch(/runs\/killed: expected a folder that no other run writes to, got one in use/);
    expect(problems).toEqual([]);
  }, 400_000);

  test("learns from the reader's own text, and says what is wrong beside the button", async () => {
    await launch(false);
    await open('backend=wasm&samples=0&steps=2&batch=1');
    await page.selectOption('[name=data]', 'own');
    await page.click('#settings [type=submit]');
    await page.waitForSelector('#training .error:visible');
    expect(await shownErrors()).toEqual(['There is no text to learn from yet. Write or paste some.']);
    await page.fill('#own textarea', 'Ada founded Adaville.\n\nAdaville has a lake.');
    expect((await trained())[2]).toBe(2);
    await page.fill('#try textarea', 'Ada');
    await page.click('[value=continue]');
    await settled();
    expect((await page.textContent('#answer'))!.length).toBeGreaterThan(5);

    await page.setInputFiles('#load', {
      name: 'adapter_config.json',
      mimeType: 'application/json',
      buffer: Buffer.from('{"peft_type": "PREFIX_TUNING"}'),
    });
    await page.waitForSelector('#adapter .error:visible');
    expect(await shownErrors()).toEqual([expect.stringContaining('adapter_config.json')]);
    expect(await page.isEnabled('[type=submit]')).toBe(true);
    expect(problems).toEqual([]);
  });
});

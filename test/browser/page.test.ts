import {existsSync, mkdirSync} from 'node:fs';
import {readFile} from 'node:fs/promises';
import {createServer, type Server} from 'node:http';
import type {AddressInfo} from 'node:net';
import {extname, join} from 'node:path';
import {type Browser, chromium, type Page} from 'playwright-core';
import {SafetensorsFile} from '../../quant/index.ts';

/*
 * Tests the built page of examples/browser in a real headless Chromium, whose WebGPU computes on the processor
 * (SwiftShader). `npm run test:browser` builds the page and runs this. TFJS_LORA_CHROMIUM names the browser.
 */

const SITE = join(__dirname, '../../out/browser');
const SHOTS = join(__dirname, '../../out/browser-test');
const CHROMIUM = [process.env.TFJS_LORA_CHROMIUM, '/usr/bin/chromium', '/usr/bin/google-chrome'].find(
  (path) => path && existsSync(path),
);
const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
};

if (!CHROMIUM) console.warn('skipped: the page in Chromium (none found; set TFJS_LORA_CHROMIUM)');

(CHROMIUM ? describe : describe.skip)('the page', () => {
  let server: Server;
  let browser: Browser;
  let page: Page;
  let problems: string[];

  beforeAll(async () => {
    mkdirSync(SHOTS, {recursive: true});
    server = createServer(async (request, response) => {
      const {pathname} = new URL(request.url!, 'http://host');
      const path = join(SITE, pathname === '/' ? 'index.html' : pathname);
      const bytes = await readFile(path).catch(() => undefined);
      if (!bytes) return response.writeHead(404).end();
      response.setHeader('content-type', TYPES[extname(path)] ?? 'application/octet-stream').end(bytes);
    });
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  });

  afterAll(async () => {
    await new Promise((closed) => server.close(closed));
  });

  afterEach(async () => {
    await browser.close();
  });

  /** Opens the page in a new browser and waits until the model has written its first summaries. */
  async function open(query: string, hasWebGPU: boolean): Promise<void> {
    const gpu = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan'];
    browser = await chromium.launch({
      executablePath: CHROMIUM,
      args: ['--no-sandbox', ...(hasWebGPU ? gpu : ['--disable-features=WebGPU,WebGPUService'])],
    });
    page = await browser.newPage({viewport: {width: 1000, height: 900}, acceptDownloads: true});
    page.setDefaultTimeout(240_000);
    problems = [];
    page.on('pageerror', ({message}) => problems.push(message));
    // A synchronous read from WebGPU draws a canvas, so these are counted.
    await page.addInitScript(`{
      window.synchronousReads = 0;
      const Canvas = window.OffscreenCanvas;
      window.OffscreenCanvas = class extends Canvas {
        constructor(...size) { super(...size); window.synchronousReads++; }
      };
      if (${!hasWebGPU}) Object.defineProperty(Navigator.prototype, 'gpu', {value: {requestAdapter: async () => null}});
    }`);
    await page.goto(
      `http://127.0.0.1:${(server.address() as AddressInfo).port}/?samples=1&tokens=10&${query}`,
    );
    await settled();
  }

  async function settled(): Promise<void> {
    await page.waitForFunction(`['ready', 'failed'].includes(document.body.dataset.state)`);
    expect(await page.textContent('#error')).toBe('');
  }

  /** Returns the losses of the first and the last step, and the number of steps. */
  async function trained(): Promise<number[]> {
    await page.click('[type=submit]');
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

  test.each([
    ['WebGPU', 'backend=webgpu&steps=3&rank=32&batch=1&bills=1', 3, true],
    ['WebAssembly, where there is no graphics adapter', 'steps=20&batch=4', 20, false],
  ])(
    'trains on %s, saves the adapter and loads it again',
    async (name, query, steps, hasWebGPU) => {
      await open(query, hasWebGPU);
      expect(await page.textContent('#backend')).toMatch(
        hasWebGPU ? /^WebGPU on .*swiftshader/i : /^WebAssembly: simd/,
      );
      if (!hasWebGPU) {
        expect(await page.getAttribute('#backend', 'title')).toContain(
          'not webgpu: backend webgpu: expected WebGPU',
        );
      }
      const before = await page.textContent('.before');
      const [first, last, count] = await trained();
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

      await page.reload(); // a new model, which gets everything it learns from the files
      await settled();
      await page.setInputFiles(
        '#load',
        files.map((file) => file.path),
      );
      await page.waitForFunction(`document.querySelector('#adapter-note').textContent !== ''`);
      await settled();
      expect(await summary()).toBe(after);
      expect(await page.evaluate('window.synchronousReads')).toBe(0);
      expect(problems).toEqual([]);
    },
    400_000,
  );

  test('says what is wrong with a file, and continues', async () => {
    await open('backend=wasm', false);
    await page.setInputFiles('#load', {
      name: 'adapter_config.json',
      mimeType: 'application/json',
      buffer: Buffer.from('{"peft_type": "PREFIX_TUNING"}'),
    });
    await page.waitForFunction(`document.body.dataset.state === 'failed'`);
    expect(await page.textContent('#error')).toContain('adapter_config.json');
    expect(await page.isEnabled('[type=submit]')).toBe(true);
  });
});

import {resolve} from 'node:path';
import {defineConfig} from 'tsdown';

/** What a browser has not, and what stands in for it. Packages that are left out here are not asked of its bundler. */
const STAND_INS: [specifier: RegExp, file: string][] = [
  [/^node:/, 'src/tools/browser/noDisk.ts'],
  [/^webgpu$/, 'src/tools/browser/noDisk.ts'],
  [/^cli-progress$/, 'src/tools/browser/noProgressBar.ts'],
  [/\/renderPlot\.ts$/, 'src/tools/browser/noPlotFile.ts'],
];

/**
 * One build for all subpaths, so that what two of them share lands in one chunk: a class exists once per module
 * format, whichever subpath it is imported by. The command line and the example it runs are entries too.
 */
const node = defineConfig({
  entry: {
    index: 'src/index.ts',
    models: 'models/index.ts',
    layers: 'layers/index.ts',
    quant: 'quant/index.ts',
    'cli/main': 'src/tools/cli/main.ts',
    'examples/quickstart': 'examples/quickstart/quickstart.ts',
    // Modules of worker threads and processes, found beside the others.
    parquetProcess: 'src/data/datasets/parquetProcess.ts',
    tokenizeWorker: 'src/data/preprocessing/tokenizeWorker.ts',
    promptWorker: 'src/tools/serve/promptWorker.ts',
  },
  format: ['esm', 'cjs'],
  platform: 'node',
  target: 'node20',
  fixedExtension: false, // package.json says "type": "module": .js is an ES module, .cjs is CommonJS
  dts: {sourcemap: true},
  sourcemap: true,
});

/** The same for browsers, whose bundlers take it by the condition `browser`. Its types are the others'. */
const browser = defineConfig({
  entry: {
    index: 'src/browser.ts',
    models: 'models/index.ts',
    layers: 'layers/index.ts',
    quant: 'quant/index.ts',
  },
  outDir: 'dist/browser',
  clean: false, // the folder above is cleaned, by the build for Node
  format: ['esm'],
  platform: 'browser',
  target: 'es2022',
  fixedExtension: false,
  dts: false,
  sourcemap: true,
  plugins: [
    {
      name: 'stand-ins',
      resolveId: {
        order: 'pre',
        handler(specifier) {
          const [, file] = STAND_INS.find(([pattern]) => pattern.test(specifier)) ?? [];
          return file && resolve(file);
        },
      },
    },
  ],
});

export default [node, browser].flat();

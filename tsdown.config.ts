import {resolve} from 'node:path';
import {defineConfig} from 'tsdown';
import packageJson from './package.json' with {type: 'json'};
import tsconfig from './tsconfig.json' with {type: 'json'};

/**
 * Modules that a browser lacks, and their replacements. A bundler for browsers need not resolve packages replaced here.
 */
const STAND_INS: [specifier: RegExp, file: string][] = [
  [/^node:/, 'src/tools/browser/noDisk.ts'],
  [/^webgpu$/, 'src/tools/browser/noDisk.ts'],
  [/^cli-progress$/, 'src/tools/browser/noProgressBar.ts'],
  [/\/renderPlot\.ts$/, 'src/tools/browser/noPlotFile.ts'],
  [/^@node-rs\/jieba/, 'src/tools/browser/noJieba.ts'],
];

/** Files of the subpaths, from the list of the type check: `index` for the package, `models` for `tfjs-lora/models`. */
const SUBPATHS = Object.fromEntries(
  Object.entries(tsconfig.compilerOptions.paths).map(([name, [file]]) => [
    name.split('/')[1] ?? 'index',
    file,
  ]),
);
const hasBrowserBuild = (name: string): boolean =>
  'browser' in Object((packageJson.exports as Record<string, unknown>)[`./${name}`]);

/**
 * One build for all subpaths, so that code that two of them share is in one chunk: a class exists once per module
 * format, whichever subpath imports it. The command line and the example it runs are entries too.
 */
const node = defineConfig({
  entry: {
    ...SUBPATHS,
    'cli/main': 'src/tools/cli/main.ts',
    'examples/quickstart': 'examples/quickstart/quickstart.ts',
    // Modules of worker threads and processes, which must be beside the others.
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

/** The build for browsers, whose bundlers select it by the condition `browser`. It has the same types. */
const browser = defineConfig({
  name: 'browser', // `npm run browser` builds only this
  entry: {
    ...Object.fromEntries(Object.entries(SUBPATHS).filter(([name]) => hasBrowserBuild(name))),
    index: 'src/browser.ts',
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

import {resolve} from 'node:path';
import {defineConfig} from 'tsdown';
import packageJson from './package.json' with {type: 'json'};
import tsconfig from './tsconfig.json' with {type: 'json'};

/** What a browser has not, and what stands in for it. Packages that are left out here are not asked of its bundler. */
const STAND_INS: [specifier: RegExp, file: string][] = [
  [/^node:/, 'src/tools/browser/noDisk.ts'],
  [/^webgpu$/, 'src/tools/browser/noDisk.ts'],
  [/^cli-progress$/, 'src/tools/browser/noProgressBar.ts'],
  [/\/renderPlot\.ts$/, 'src/tools/browser/noPlotFile.ts'],
  [/^@node-rs\/jieba/, 'src/tools/browser/noJieba.ts'],
];

/** `index` for the package itself, `models` for `tfjs-lora/models` → its file, from the list that the type check has. */
const SUBPATHS = Object.fromEntries(
  Object.entries(tsconfig.compilerOptions.paths).map(([name, [file]]) => [
    name.split('/')[1] ?? 'index',
    file,
  ]),
);
const hasBrowserBuild = (name: string): boolean =>
  'browser' in Object((packageJson.exports as Record<string, unknown>)[`./${name}`]);

/**
 * One build for all subpaths, so that what two of them share lands in one chunk: a class exists once per module
 * format, whichever subpath it is imported by. The command line and the example it runs are entries too.
 */
const node = defineConfig({
  entry: {
    ...SUBPATHS,
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

import {defineConfig} from 'tsdown';

/**
 * One build for all subpaths, so that what two of them share lands in one chunk: a class exists once per module
 * format, whichever subpath it is imported by. The command line and the example it runs are entries too.
 */
export default defineConfig({
  entry: {
    index: 'src/index.ts',
    models: 'models/index.ts',
    layers: 'layers/index.ts',
    quant: 'quant/index.ts',
    'cli/main': 'src/cli/main.ts',
    'examples/quickstart': 'examples/quickstart/quickstart.ts',
    tokenizeWorker: 'src/data/preprocessing/tokenizeWorker.ts', // a worker thread's own module, found beside the others
  },
  format: ['esm', 'cjs'],
  platform: 'node',
  target: 'node20',
  fixedExtension: false, // package.json says "type": "module": .js is an ES module, .cjs is CommonJS
  dts: {sourcemap: true},
  sourcemap: true,
});

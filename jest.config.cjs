/**
 * Tests run as CommonJS: @swc/jest compiles TypeScript (without a type check, which `npm run typecheck` does).
 * `npm test` runs everything but what needs a build: test/packaging/, `npm run test:packaging`, and the notebooks,
 * `npm run test:notebook`; and but the fuzzing of readers, `npm run test:fuzz`.
 */

// Published as ES modules only, so jest's CommonJS world must translate them: vega, vega-lite, hyparquet and what they
// import.
const ESM_ONLY = [
  'vega(-[a-z-]+)?',
  'd3(-[a-z-]+)?',
  'internmap',
  'delaunator',
  'robust-predicates',
  'json-stringify-pretty-compact',
  'hyparquet(-compressors)?',
  'fzstd',
  'hysnappy',
  '@huggingface/.*',
];

/** @type {import('jest').Config} */
module.exports = {
  roots: ['<rootDir>/test'],
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  testPathIgnorePatterns: [
    '/node_modules/',
    '<rootDir>/test/packaging/',
    '<rootDir>/test/browser/',
    '<rootDir>/test/fuzz/',
    '<rootDir>/test/e2e/notebooks/',
  ],
  testEnvironment: '<rootDir>/test/environment.cjs',
  setupFiles: ['<rootDir>/test/quietBanner.cjs'],
  moduleFileExtensions: ['ts', 'js', 'cjs', 'mjs', 'json', 'node'],
  transform: {
    '\\.(ts|js|mjs)$': [
      '@swc/jest',
      {
        swcrc: false,
        jsc: {parser: {syntax: 'typescript'}, target: 'es2022'},
        module: {type: 'commonjs'},
        sourceMaps: 'inline',
      },
    ],
  },
  // Its Node build looks for an optional native canvas by top-level await, which CommonJS cannot contain; without that
  // canvas the browser build does the same.
  moduleNameMapper: {'^vega-canvas$': '<rootDir>/node_modules/vega-canvas/build/vega-canvas.browser.js'},
  transformIgnorePatterns: [`/node_modules/(?!(${ESM_ONLY.join('|')})/).*`],
  testTimeout: 600_000, // for tests that hang; a busy machine takes minutes for what takes seconds elsewhere
  maxWorkers: 2,
};

import {copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {hasFusedOps, type TensorFlowBackend} from '../../../layers/kernels/tensorflow/tensorflowBackend.ts';
import {chooseFusedOps, FUSED_OPS_FILE} from '../../../src/backends/fusedOps.ts';
import {fusedOpsSources} from '../../../src/backends/fusedOpsSources.ts';
import type {TensorFlowSetup} from '../../../src/backends/tensorflowFolder.ts';
import {someAddon} from '../setup/fakeTensorFlow.ts';

let packageRoot: string;
let folder: string;
jest.mock('../../../src/backends/packageFolder.ts', () => ({packageFolder: async () => packageRoot}));

const native = () => join(packageRoot, 'layers/kernels/tensorflow/native');

beforeEach(() => {
  packageRoot = mkdtempSync(join(tmpdir(), 'tfjs-lora-ops-'));
  folder = join(packageRoot, 'tensorflow');
  for (const each of [native(), folder]) mkdirSync(each, {recursive: true});
  writeFileSync(join(native(), 'module.cc'), 'int x;');
  writeFileSync(join(native(), 'ops.h'), 'int y;');
  copyFileSync(someAddon(), join(folder, FUSED_OPS_FILE));
});
afterEach(() => {
  rmSync(packageRoot, {recursive: true});
  delete process.env.TFJS_LORA_FUSED_OPS;
});

const setup = (fusedOps?: TensorFlowSetup['fusedOps'], name = '@tensorflow/tfjs-node') => ({
  folder,
  made: {package: name, version: '2.21.0', source: 'wheel', fusedOps} as TensorFlowSetup,
});
const current = async () => setup({sources: (await fusedOpsSources()).hash});
const newBackend = () => ({}) as TensorFlowBackend;

describe('fusedOpsSources', () => {
  test('has another hash when a source or a header changes, and only then', async () => {
    const {files, hash} = await fusedOpsSources();
    expect(files).toEqual(['module.cc']);
    const seen = [hash];
    for (const [name, text] of [
      ['module.cc', 'int z;'],
      ['ops.h', 'int z;'],
      ['new.cc', ''],
      ['README.md', 'text'],
    ]) {
      writeFileSync(join(native(), name), text);
      seen.push((await fusedOpsSources()).hash);
    }
    expect(new Set(seen).size).toBe(4);
    expect(seen.at(-1)).toBe(seen.at(-2));
  });
});

describe('chooseFusedOps', () => {
  test('takes those that are set up', async () => {
    const backend = newBackend();
    expect(await chooseFusedOps(backend, await current())).toBe('fused ops');
    expect(hasFusedOps(backend)).toBe(true);
  });

  test('leaves them off where that is asked for, until it is asked again', async () => {
    const backend = newBackend();
    const said = [];
    for (const isAsked of [false, undefined, true, undefined, false]) {
      said.push([await chooseFusedOps(backend, await current(), isAsked), hasFusedOps(backend)]);
    }
    const [on, off] = [
      ['fused ops', true],
      ['fused ops off', false],
    ];
    expect(said).toEqual([off, off, on, on, off]);
  });

  test('the environment leaves them off too, unless the program asks', async () => {
    process.env.TFJS_LORA_FUSED_OPS = '0';
    expect(await chooseFusedOps(newBackend(), await current())).toBe('fused ops off');
    expect(await chooseFusedOps(newBackend(), await current(), true)).toBe('fused ops');
    process.env.TFJS_LORA_FUSED_OPS = '1';
    expect(await chooseFusedOps(newBackend(), await current())).toBe('fused ops');
  });

  test('does not load those of other sources', async () => {
    const before = await current();
    writeFileSync(join(native(), 'ops.h'), 'int changed;');
    rmSync(join(folder, FUSED_OPS_FILE)); // loading would say something else
    const backend = newBackend();
    expect(await chooseFusedOps(backend, before)).toBe(
      'no fused ops: they are not this tfjs-lora’s; run npx tfjs-lora setup tensorflow',
    );
    expect(hasFusedOps(backend)).toBe(false);
  });

  test('says why there are none', async () => {
    const of = (place?: Parameters<typeof chooseFusedOps>[1]) => chooseFusedOps(newBackend(), place);
    expect(await of()).toMatch(/^no fused ops: npx tfjs-lora setup tensorflow would compile them/);
    expect(await of(setup())).toBe('no fused ops: run npx tfjs-lora setup tensorflow');
    expect(await of(setup(undefined, '@tensorflow/tfjs-node-gpu'))).toContain('was set up for a card');
    expect(await of(setup({missing: 'No compiler.'}))).toBe(
      'no fused ops: No compiler. Then run npx tfjs-lora setup tensorflow again',
    );
    writeFileSync(join(folder, FUSED_OPS_FILE), 'no addon');
    expect(await of(await current())).toMatch(/^no fused ops: they do not load \(.*fused_ops.node/);
  });
});

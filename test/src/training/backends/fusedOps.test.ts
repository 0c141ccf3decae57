import {copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {
  settingsOf,
  type TensorFlowBackend,
} from '../../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {chooseFusedOps, FUSED_OPS_FILE} from '../../../../src/training/backends/fusedOps.ts';
import {fusedOpsSources} from '../../../../src/training/backends/fusedOpsSources.ts';
import type {TensorFlowSetup} from '../../../../src/training/backends/tensorflowFolder.ts';
import {someAddon} from '../../tools/setup/fakeTensorFlow.ts';

let packageRoot: string;
let folder: string;
jest.mock('../../../../src/training/backends/packageFolder.ts', () => ({
  ...(jest.requireActual('../../../../src/training/backends/packageFolder.ts') as object),
  packageFolder: async () => packageRoot,
}));

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
const GPU = '@tensorflow/tfjs-node-gpu';
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

  test('has those of a card only when requested', async () => {
    mkdirSync(join(native(), 'cuda/kernels'), {recursive: true});
    for (const name of ['ops.cc', 'engine.h', 'kernels/attention.cu']) {
      writeFileSync(join(native(), 'cuda', name), '');
    }
    const [without, withCard] = [await fusedOpsSources(), await fusedOpsSources(true)];
    expect(without.files).toEqual(['module.cc']);
    expect(withCard.files).toEqual(['cuda/ops.cc', 'module.cc']);
    writeFileSync(join(native(), 'cuda/engine.h'), 'int z;');
    expect((await fusedOpsSources()).hash).toBe(without.hash);
    expect((await fusedOpsSources(true)).hash).not.toBe(withCard.hash);
    writeFileSync(
      join(native(), 'cuda/kernels/attention.cu'),
      '// compiled for the card when it is first used',
    );
    expect((await fusedOpsSources()).hash).toBe(without.hash);
    const before = (await fusedOpsSources(true)).hash;
    writeFileSync(join(native(), 'cuda/kernels/arguments.h'), 'struct Arguments {};'); // which the C++ includes
    expect((await fusedOpsSources(true)).hash).not.toBe(before);
  });
});

describe('chooseFusedOps', () => {
  test('uses those that are set up', async () => {
    const backend = newBackend();
    expect(await chooseFusedOps(backend, await current())).toBe('fused ops');
    expect(settingsOf(backend).hasFusedOps).toBe(true);
  });

  test('leaves them off when requested, until requested again', async () => {
    const backend = newBackend();
    const said = [];
    for (const isAsked of [false, undefined, true, undefined, false]) {
      said.push([await chooseFusedOps(backend, await current(), isAsked), settingsOf(backend).hasFusedOps]);
    }
    const [on, off] = [
      ['fused ops', true],
      ['fused ops off', false],
    ];
    expect(said).toEqual([off, off, on, on, off]);
  });

  test('the environment leaves them off too, unless the program requests them', async () => {
    process.env.TFJS_LORA_FUSED_OPS = '0';
    expect(await chooseFusedOps(newBackend(), await current())).toBe('fused ops off');
    expect(await chooseFusedOps(newBackend(), await current(), true)).toBe('fused ops');
    process.env.TFJS_LORA_FUSED_OPS = '1';
    expect(await chooseFusedOps(newBackend(), await current())).toBe('fused ops');
  });

  test('does not load those of other sources', async () => {
    const before = await current();
    writeFileSync(join(native(), 'ops.h'), 'int changed;');
    rmSync(join(folder, FUSED_OPS_FILE)); // loading would fail with another message
    const backend = newBackend();
    expect(await chooseFusedOps(backend, before)).toBe(
      'no fused ops: they belong to another version of tfjs-lora; run npx tfjs-lora setup tensorflow',
    );
    expect(settingsOf(backend).hasFusedOps).toBe(false);
  });

  test('reports why there are none', async () => {
    const of = (place?: Parameters<typeof chooseFusedOps>[1]) => chooseFusedOps(newBackend(), place);
    expect(await of()).toMatch(/^no fused ops: npx tfjs-lora setup tensorflow compiles them/);
    expect(await of(setup())).toBe('no fused ops: run npx tfjs-lora setup tensorflow');
    expect(await of(setup(undefined, GPU))).toBe('no fused ops: run npx tfjs-lora setup tensorflow --gpu');
    expect(await of(setup({missing: 'No compiler.'}))).toBe(
      'no fused ops: No compiler. Then run npx tfjs-lora setup tensorflow again',
    );
    writeFileSync(join(folder, FUSED_OPS_FILE), 'no addon');
    expect(await of(await current())).toMatch(/^no fused ops: they do not load \(.*fused_ops.node/);
  });
});

describe('chooseFusedOps on a card', () => {
  const asked: unknown[][] = [];
  let failure: string | undefined;
  const binding = {
    createTensor: () => 1,
    deleteTensor: (id: number) => asked.push(['delete', id]),
    executeOp: (name: string) => {
      asked.push([name]);
      if (failure) throw new Error(failure);
      return [{id: 2}, {id: 3}];
    },
  };
  const newCard = () => {
    const backend = {isUsingGpuDevice: true, binding} as unknown as TensorFlowBackend;
    settingsOf(backend).products = {operands: 'bfloat16', isNative: true};
    return backend;
  };
  const onCard = async () => setup({sources: (await fusedOpsSources(true)).hash}, GPU);
  const kernels = () =>
    ['DecoderStack', 'DecoderStackGrad', 'LinearCrossEntropy'].map(
      (name) => tf.getKernel(name, 'tensorflow') != null,
    );

  beforeEach(() => {
    [asked.length, failure] = [0, undefined];
    mkdirSync(join(native(), 'cuda/kernels'), {recursive: true});
    process.env.XDG_CACHE_HOME = join(packageRoot, 'cache');
    // In place of an addon: Node loads a folder's index.js.
    rmSync(join(folder, FUSED_OPS_FILE));
    mkdirSync(join(folder, FUSED_OPS_FILE));
    writeFileSync(
      join(folder, FUSED_OPS_FILE, 'index.js'),
      'exports.useCardFolders = (...folders) => { globalThis.cardFolders = folders; };',
    );
  });
  afterEach(async () => {
    delete process.env.XDG_CACHE_HOME;
    await chooseFusedOps(newCard(), undefined, false);
    expect(kernels()).toEqual([false, false, false]);
  });

  test('tries one, passes the folders of its kernels, and registers those that only a card has', async () => {
    const backend = newCard();
    expect(await chooseFusedOps(backend, await onCard())).toBe('fused ops on the card');
    expect((globalThis as {cardFolders?: string[]}).cardFolders).toEqual([
      join(native(), 'cuda/kernels'),
      join(packageRoot, 'cache/tfjs-lora/cuda'),
    ]);
    expect(readdirSync(join(packageRoot, 'cache/tfjs-lora'))).toEqual(['cuda']);
    expect(asked).toEqual([['TfjsLoraRMSNorm'], ['delete', 1], ['delete', 2], ['delete', 3]]);
    expect([settingsOf(backend).hasCardOps, settingsOf(backend).hasFusedOps, ...kernels()]).toEqual([
      true,
      false,
      true,
      true,
      true,
    ]);
    expect(await chooseFusedOps(backend, await onCard(), false)).toBe('fused ops on the card off');
    expect([settingsOf(backend).hasCardOps, ...kernels()]).toEqual([false, false, false, false]);
  });

  test('leaves products in float32 to the composed ops', async () => {
    const backend = newCard();
    settingsOf(backend).products = {operands: 'float32', isNative: true};
    expect(await chooseFusedOps(backend, await onCard())).toBe('fused ops on the card');
    expect([settingsOf(backend).hasCardOps, ...kernels()]).toEqual([true, false, false, false]);
  });

  test.each([
    "CUDA's run-time compiler (libnvrtc.so.12) is missing",
    'expected a card of compute capability 8.0 or later, got 7.5',
  ])('says what is missing: %s', async (missing) => {
    failure = missing;
    const backend = newCard();
    expect(await chooseFusedOps(backend, await onCard())).toBe(`no fused ops on the card: ${missing}`);
    expect([settingsOf(backend).hasCardOps, ...kernels()]).toEqual([false, false, false, false]);
    expect(asked.at(-1)).toEqual(['delete', 1]);
  });

  test('names the command that compiles them', async () => {
    const command = 'npx tfjs-lora setup tensorflow --gpu';
    const of = (place?: Parameters<typeof chooseFusedOps>[1]) => chooseFusedOps(newCard(), place);
    expect(await of()).toBe(
      `no fused ops on the card: ${command} compiles them with a TensorFlow of its own`,
    );
    expect(await of(setup({missing: 'No compiler.'}, GPU))).toBe(
      `no fused ops on the card: No compiler. Then run ${command} again`,
    );
    expect(await of(setup({sources: 'of another release'}, GPU))).toBe(
      `no fused ops on the card: they belong to another version of tfjs-lora; run ${command}`,
    );
  });

  test('those of a set-up for a card also run on a processor', async () => {
    const backend = newBackend();
    expect(await chooseFusedOps(backend, await onCard())).toBe('fused ops');
    expect([settingsOf(backend).hasFusedOps, settingsOf(backend).hasCardOps, ...kernels()]).toEqual([
      true,
      false,
      false,
      false,
      false,
    ]);
  });
});

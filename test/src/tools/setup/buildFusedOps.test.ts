import {existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {arch, tmpdir} from 'node:os';
import {basename, dirname, join} from 'node:path';
import {buildFusedOps} from '../../../../src/tools/setup/buildFusedOps.ts';
import {libraryOf} from '../../../../src/tools/setup/tensorFlowLibrary.ts';
import {FUSED_OPS_FILE} from '../../../../src/training/backends/fusedOps.ts';
import {fusedOpsSources} from '../../../../src/training/backends/fusedOpsSources.ts';
import type {TensorFlowPackage} from '../../../../src/training/backends/tensorflowFolder.ts';
import {FakeCompiler, layOutSetup, someAddon} from './fakeTensorFlow.ts';

describe('buildFusedOps', () => {
  let root: string;
  let folder: string;
  let compiler: FakeCompiler;
  let packageName: TensorFlowPackage;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'tfjs-lora-fused-'));
    folder = join(root, 'tensorflow');
    packageName = '@tensorflow/tfjs-node';
    layOutSetup(folder);
    compiler = new FakeCompiler(root, someAddon());
    writeFileSync(join(folder, FUSED_OPS_FILE), 'of before');
  });
  afterEach(() => rmSync(root, {recursive: true}));

  const build = async (CXX = compiler.path) => {
    const library = await libraryOf(folder, packageName, 'wheel');
    return buildFusedOps({folder, packageName, library, environment: {CXX}, execPath: process.execPath});
  };
  const ops = () => readdirSync(folder).filter((name) => name.endsWith('.node'));

  test('compiles and links all sources, and replaces the earlier ops', async () => {
    const {files, hash} = await fusedOpsSources();
    expect(await build()).toEqual({sources: hash});
    expect(ops()).toEqual([FUSED_OPS_FILE]);
    expect(readFileSync(join(folder, FUSED_OPS_FILE)).equals(readFileSync(someAddon()))).toBe(true);
    const link = compiler.calls.at(-1) as string;
    const compiled = compiler.calls.slice(0, -1);
    const sourceOf = (call: string) => basename(/-c (\S+)/.exec(call)?.[1] ?? '');
    expect(compiled.map(sourceOf).sort()).toEqual(files);
    for (const call of compiled) expect(call.includes('-mavx2 -mfma')).toBe(arch() === 'x64');
    for (const call of compiled) expect(link).toContain(/-o (\S+)/.exec(call)?.[1]);
    // The addon is moved together with the library, and finds it by a relative path.
    expect(link).toMatch(
      /-shared .*libtensorflow_framework\S* -Wl,-rpath,(\$ORIGIN|@loader_path)\/tensorflow$/,
    );
  });

  const onLinux = process.platform === 'linux' ? test : test.skip;
  onLinux('compiles those of a card beside them, and finds NVIDIA’s libraries', async () => {
    packageName = '@tensorflow/tfjs-node-gpu';
    layOutSetup(folder, {package: packageName});
    const include = (name: string) => join(folder, 'tensorflow/include', name);
    expect((await build()).missing).toContain('op_kernel.h: expected a header of TensorFlow');
    for (const name of ['tensorflow/core/framework/op_kernel.h', 'xla/stream_executor/stream.h']) {
      mkdirSync(dirname(include(name)), {recursive: true});
      writeFileSync(include(name), '');
    }
    for (const name of ['cublas', 'cuda_nvrtc'])
      mkdirSync(join(folder, 'nvidia', name, 'lib'), {recursive: true});
    const {files, hash} = await fusedOpsSources(true);
    expect(await build()).toEqual({sources: hash});
    expect(files).toEqual(expect.arrayContaining(['cuda/ops.cc', 'cuda/stream.cc', 'rms_norm.cc']));
    const link = compiler.calls.at(-1) as string;
    const compiled = compiler.calls.slice(0, -1);
    expect(compiled).toHaveLength(files.length);
    for (const call of compiled) {
      expect(call).toContain('-DTFJS_LORA_CARD');
      expect(call.includes('-std=c++20 -w -c')).toBe(call.includes('cuda/stream.cc')); // it overrides -std=c++17
    }
    for (const name of ['cublas', 'cuda_nvrtc'])
      expect(link).toContain(`-Wl,-rpath,$ORIGIN/nvidia/${name}/lib`);
  });

  test('leaves no ops without a compiler', async () => {
    const {sources, missing} = await build(join(root, 'no-compiler'));
    expect(sources).toBeUndefined();
    expect(missing).toContain('expected a C++ compiler, got none of');
    expect(ops()).toEqual([]);
  });

  test("reports the compiler's message", async () => {
    const {missing} = await build(compiler.failing('a.cc:1: error: no such type'));
    expect(missing).toContain('expected the fused ops to compile, got: a.cc:1: error: no such type.');
    expect(ops()).toEqual([]);
  });

  test('reports why the ops do not load', async () => {
    const noAddon = join(root, 'text');
    writeFileSync(noAddon, 'no addon');
    const {missing} = await build(new FakeCompiler(root, noAddon).path);
    expect(missing).toMatch(/^fused ops: expected one that runs, got: Error: .*new-fused_ops.node/);
    expect(ops()).toEqual([]);
  });

  test('reports a wrong result', async () => {
    const entry = join(folder, 'node_modules', packageName, 'index.js');
    writeFileSync(entry, readFileSync(entry, 'utf8').replace('[128]', '[127]'));
    expect((await build()).missing).toContain('got: Error: expected 128 from SwiGLU, got 127');
    expect(existsSync(join(folder, FUSED_OPS_FILE))).toBe(false);
  });
});

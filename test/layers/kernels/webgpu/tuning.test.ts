import {mkdtempSync, readFileSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {measureShaders} from '../../../../layers/kernels/webgpu/device/measureShaders.ts';
import type {ShaderCall} from '../../../../layers/kernels/webgpu/device/runShader.ts';
import {isTuned, setTuning} from '../../../../layers/kernels/webgpu/device/tuning.ts';
import type {WebGPUBackend} from '../../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {THREAD_TILINGS} from '../../../../layers/kernels/webgpu/products/tiledProduct.ts';
import {compileShaders} from '../../../../layers/ops/compileShaders.ts';
import {pack16} from '../../../../layers/ops/pack16.ts';
import {storedMatMul} from '../../../../layers/ops/storedMatMul.ts';
import {unpackMatrix} from '../../../../layers/ops/unpackMatrix.ts';
import {useBackend} from '../../../../src/training/backends/useBackend.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {describeWebGPU, expectSame, normal} from './webgpuOnly.ts';

const backend = () => tf.backend() as unknown as WebGPUBackend;

/** Keeps choices in memory, and counts what was measured; candidate `fastest` takes `time`, the others 1. */
function tuning(fastest: number, time = 0.5, device = 'card, driver 1') {
  const measured: ShaderCall[][] = [];
  const stored: Record<string, string> = {};
  const options = (name = device) => ({
    device: name,
    store: {load: async () => ({...stored}), save: async (next: object) => void Object.assign(stored, next)},
    measure: async (_: unknown, calls: ShaderCall[]) => {
      measured.push(calls);
      return calls.map((_call, i) => (i === fastest ? time : 1));
    },
  });
  return {measured, stored, options};
}

describeWebGPU('tuning', () => {
  let x: tf.Tensor2D;
  let weight: {tensor: tf.Tensor; dtype: 'float16'; rows: number; cols: number};
  const product = () => storedMatMul(x, weight as never, true);
  const prepare = () => compileShaders(() => void product());

  beforeAll(() => {
    x = normal([70, 50], 1) as tf.Tensor2D;
    const wide = normal([75, 50], 2) as tf.Tensor2D;
    weight = {tensor: pack16(wide, 'float16'), dtype: 'float16', rows: 75, cols: 50};
    wide.dispose();
  });
  afterEach(() => setTuning(backend(), undefined));
  afterAll(() => tf.dispose([x, weight.tensor]));

  test('is off by default', async () => {
    expect(isTuned(backend())).toBe(false);
    await setTuning(backend(), tuning(0).options());
    expect(isTuned(backend())).toBe(true);
  });

  test('useBackend switches it on, with a file in the cache folder, and off', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-tune-'));
    const before = process.env.XDG_CACHE_HOME;
    process.env.XDG_CACHE_HOME = folder;
    try {
      expect((await useBackend('webgpu')).features).not.toContain('tiles by measurement');
      expect((await useBackend('webgpu', {tune: true})).features).toContain('tiles by measurement');
      await prepare();
      const {choices} = JSON.parse(readFileSync(join(folder, 'tfjs-lora', 'tuning.json'), 'utf8'));
      const names = THREAD_TILINGS.map((tiling) => Object.values(tiling).join());
      expect(Object.keys(choices)).toEqual([expect.stringMatching(/^1 .+: TiledProduct32 128,75,50,true,/)]);
      expect(names).toContain(Object.values(choices)[0]);
      expect((await useBackend('webgpu', {tune: false})).features).not.toContain('tiles by measurement');
    } finally {
      if (before === undefined) delete process.env.XDG_CACHE_HOME;
      else process.env.XDG_CACHE_HOME = before;
      rmSync(folder, {recursive: true});
    }
  });

  test.each([...THREAD_TILINGS.keys()])('tiles of candidate %i give the same product', async (candidate) => {
    for (const transposeWeight of [true, false]) {
      for (const [m, outputs, cols] of [
        [64, 64, 32],
        [70, 75, 50],
        [130, 40, 200],
      ]) {
        const {options, stored} = tuning(candidate);
        await setTuning(backend(), options());
        const input = normal([m, transposeWeight ? cols : outputs], 3) as tf.Tensor2D;
        const wide = normal([outputs, cols], 4) as tf.Tensor2D;
        const matrix = {tensor: pack16(wide, 'float16'), dtype: 'float16' as const, rows: outputs, cols};
        const run = () => storedMatMul(input, matrix as never, transposeWeight);
        await compileShaders(() => void run());
        expect(Object.values(stored)).toEqual([Object.values(THREAD_TILINGS[candidate]).join()]);
        await expectSame(
          run(),
          tf.tidy(() => tf.matMul(input, unpackMatrix(matrix as never), false, transposeWeight)),
        );
        tf.dispose([input, wide, matrix.tensor]);
      }
    }
  });

  test('measures a shape once, even across processes, and again on another card', async () => {
    const {options, measured} = tuning(2);
    await setTuning(backend(), options());
    await prepare();
    await prepare();
    expect(measured.length).toBe(1);
    expect(measured[0].length).toBe(THREAD_TILINGS.length);
    await setTuning(backend(), options());
    await prepare();
    expect(measured.length).toBe(1);
    await setTuning(backend(), options('card, driver 2'));
    await prepare();
    expect(measured.length).toBe(2);
  });

  test('keeps the default if nothing is clearly faster', async () => {
    const {options, stored} = tuning(1, 0.98);
    await setTuning(backend(), options());
    await prepare();
    expect(Object.values(stored)).toEqual([Object.values(THREAD_TILINGS[0]).join()]);
  });

  test('measures a shape again if its stored name is no candidate', async () => {
    const {options, measured, stored} = tuning(1);
    await setTuning(backend(), options());
    await prepare();
    for (const key of Object.keys(stored)) stored[key] = '1000,1000';
    await setTuning(backend(), options());
    await prepare();
    expect(measured.length).toBe(2);
    expect(Object.values(stored)).toEqual([Object.values(THREAD_TILINGS[1]).join()]);
  });

  test.each(['by its own clock', 'by the wall clock'])(
    'times shaders %s, and keeps no tensor',
    async (how) => {
      const times: number[][] = [];
      const {options} = tuning(0);
      const measure = async (_: unknown, calls: ShaderCall[]) => {
        const bad = {...calls[0], shader: {...calls[0].shader, code: 'nonsense'}};
        times.push(await measureShaders(backend(), [...calls, bad]));
        return times[0].slice(0, -1);
      };
      const {device} = backend();
      if (how === 'by the wall clock')
        Object.defineProperty(device, 'features', {value: new Set(), configurable: true});
      await expectNoLeak(async () => {
        await setTuning(backend(), {...options(`card ${times.length}`), measure});
        await prepare();
      });
      Reflect.deleteProperty(device, 'features');
      expect(times.length).toBe(2);
      for (const row of times) {
        expect(row.length).toBe(THREAD_TILINGS.length + 1);
        for (const time of row.slice(0, -1)) expect(time).toBeGreaterThanOrEqual(0);
        expect(row.slice(0, -1).every(Number.isFinite)).toBe(true);
        expect(row.at(-1)).toBe(Number.POSITIVE_INFINITY);
      }
      const y = product();
      await expect(y.data()).resolves.toHaveLength(70 * 75);
      y.dispose();
    },
  );
});

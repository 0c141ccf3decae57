import * as tf from '@tensorflow/tfjs';
import {nearestComputeDtype} from '../../../../src/training/backends/computeDtype.ts';
import {type BackendName, useBackend} from '../../../../src/training/backends/useBackend.ts';

// Where nothing is set up, whatever this checkout has.
jest.mock('../../../../src/training/backends/tensorflowFolder.ts', () => ({
  ...(jest.requireActual('../../../../src/training/backends/tensorflowFolder.ts') as object),
  tensorflowFolder: async () => '/nowhere',
}));

describe('useBackend', () => {
  test('auto takes the first that works and reports why the others do not', async () => {
    const report = await useBackend('auto', {threads: 2});
    expect(report.backend).toBe('wasm');
    expect(tf.getBackend()).toBe('wasm');
    expect(report.tried.map(({backend, available}) => [backend, available])).toEqual([
      ['webgpu', false],
      ['tensorflow', false],
      ['wasm', true],
    ]);
    expect(report.features).toEqual(['simd', 'fused multiply-add', '2 threads']);
    expect(String(report)).toMatch(/^backend wasm \(the fastest that works\): .*2 threads\n {2}not webgpu: /);
  });

  test('switches, and comes back to the same threads', async () => {
    expect((await useBackend('cpu')).backend).toBe('cpu');
    expect(tf.getBackend()).toBe('cpu');
    expect((await useBackend('wasm')).features).toContain('2 threads');
    expect(tf.getBackend()).toBe('wasm');
  });

  test('threads give the same product as the reference', async () => {
    await useBackend('wasm');
    const a = tf.randomUniform([67, 129], -1, 1, 'float32', 1);
    const b = tf.randomUniform([129, 45], -1, 1, 'float32', 2);
    const [got, aValues, bValues] = [tf.matMul(a, b), a, b].map((tensor) => tensor.dataSync());
    await useBackend('cpu');
    const expected = tf.matMul(tf.tensor(aValues, [67, 129]), tf.tensor(bValues, [129, 45])).dataSync();
    expect(Math.max(...expected.map((value, i) => Math.abs(value - got[i])))).toBeLessThan(1e-5);
    await useBackend('wasm');
  });

  test('refuses other threads once started', async () => {
    await expect(useBackend('wasm', {threads: 1})).rejects.toMatchObject({code: 'UNSUPPORTED'});
    await expect(useBackend('wasm', {threads: 2})).resolves.toMatchObject({backend: 'wasm'});
  });

  test('names what is missing', async () => {
    await expect(useBackend('webgpu')).rejects.toMatchObject({code: 'BACKEND_UNAVAILABLE'});
    await expect(useBackend('tensorflow')).rejects.toThrow('@tensorflow/tfjs-node: not installed');
  });

  test.each(['bfloat16', 'float16', 'float32'] as const)(
    '%s may be replaced by the nearest type',
    async (computeDtype) => {
      for (const name of ['auto', 'wasm', 'cpu'] as const) {
        const report = await useBackend(name, {computeDtype});
        expect(report.computeDtype).toBe('float32');
        const said = `float32 is the nearest type to ${computeDtype}`;
        expect(String(report).includes(said)).toBe(computeDtype !== 'float32');
      }
      await expect(useBackend('tensorflow', {computeDtype})).rejects.toMatchObject({
        code: 'BACKEND_UNAVAILABLE',
        message: expect.stringContaining('Run npx tfjs-lora setup tensorflow, or use wasm.'),
      });
      await useBackend('wasm');
    },
  );

  test('the nearest type has the requested number of bits if possible', () => {
    expect(nearestComputeDtype('float16', ['float32', 'bfloat16'])).toBe('bfloat16'); // tensorflow
    expect(nearestComputeDtype('bfloat16', ['float32', 'float16'])).toBe('float16'); // webgpu
    expect(nearestComputeDtype('float32', ['float16', 'float32'])).toBe('float32');
    expect(nearestComputeDtype('bfloat16', ['float32'])).toBe('float32');
  });

  test('refuses a type that no backend has', async () => {
    await expect(useBackend('auto', {computeDtype: 'flaot16' as 'float16'})).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('got flaot16. Did you mean float16?'),
    });
  });

  test('refuses an unknown name and a bad number of threads', async () => {
    await expect(useBackend('wsam' as BackendName)).rejects.toThrow(
      'useBackend: expected auto, webgpu, tensorflow, wasm, cpu, got wsam. Did you mean wasm?',
    );
    await expect(useBackend('wasm', {threads: 0})).rejects.toMatchObject({code: 'INVALID_ARGUMENT'});
  });

  test('leaves the process as it was', async () => {
    const os = await import('node:os');
    const {Worker} = await import('node:worker_threads');
    expect(os.cpus().length).toBe(os.availableParallelism());
    expect(Worker.name).toBe('Worker');
    expect('Worker' in globalThis).toBe(false);
  });

  test('removing a backend ends its threads', async () => {
    const {gemmOf} = await import('../../../../layers/kernels/wasm/native/gemm.ts');
    await useBackend('wasm');
    const gemm = gemmOf(tf.backend() as Parameters<typeof gemmOf>[0]);
    expect(gemm.threads).toBe(2);
    await useBackend('cpu');
    tf.removeBackend('wasm');
    expect(gemm.threads).toBe(1);
  });
});

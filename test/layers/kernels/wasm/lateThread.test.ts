import * as tf from '@tensorflow/tfjs';
import {type Gemm, gemmOf, type WorkerConstructor} from '../../../../layers/kernels/wasm/native/gemm.ts';
import type {WasmBackend} from '../../../../layers/kernels/wasm/wasmBackend.ts';
import {useBackend} from '../../../../src/training/backends/useBackend.ts';
import {expectClose} from '../../../expectClose.ts';

type Work = Gemm['exports']['work'];

/**
 * Adds a thread that the system wakes at the worst moment: after the calling thread has set a product up, and before it
 * computes any of it.
 *
 * @returns how many tiles it took of each product since
 */
function addLateThread(gemm: Gemm): number[] {
  const taken: number[] = [];
  let late: () => number = () => 0;
  const LateThread = class {
    constructor(_: string, {workerData}: {workerData: unknown}) {
      const {module, memory, job, scratch} = workerData as {
        module: WebAssembly.Module;
        memory: WebAssembly.Memory;
        job: number;
        scratch: number;
      };
      const {work} = new WebAssembly.Instance(module, {env: {memory}}).exports as {work: Work};
      late = () => work(job, scratch);
    }
    unref() {}
    terminate() {}
    on() {}
  };
  gemm.startThreads(gemm.threads + 1, LateThread as WorkerConstructor);
  const {work} = gemm.exports;
  Object.assign(gemm, {
    exports: {
      ...gemm.exports,
      work: (job: number, scratch: number) => {
        taken.push(late());
        return work(job, scratch);
      },
    },
  });
  return taken;
}

test('a thread that wakes late shares the work, but no work that the caller does not wait for', async () => {
  await useBackend('wasm', {threads: 1}); // so that the late thread is the only other
  const random = (shape: number[]) => tf.randomNormal(shape, 0, 1, 'float32', 1);
  const large = random([160, 160]);
  const small = random([8, 20, 20]);
  const products = () => [large, small, large, small].map((x) => tf.matMul(x, x));
  const expected = products();
  const taken = addLateThread(gemmOf(tf.backend() as WasmBackend));
  const actual = products();
  for (const [i, product] of actual.entries()) expectClose(product, expected[i], {relative: 0});
  expect(taken.map((tiles) => tiles > 0)).toEqual([true, false, true, false]);
  tf.dispose([large, small, ...expected, ...actual]);
});

import * as tf from '@tensorflow/tfjs';
import {
  DataType,
  type Handle,
  type TensorFlowBackend,
} from '../../layers/kernels/tensorflow/device/tensorflowBackend.ts';

/**
 * Measures time by TensorFlow op and shape of its result while `run` runs, with a wait after each op. A time includes
 * the op on the card and the wait itself, which {@link wait} alone shows. The sum is longer than an unmeasured run, in
 * which the host runs ahead.
 */
export async function opTimes(
  run: () => Promise<unknown>,
): Promise<{kernel: string; count: number; milliseconds: number}[]> {
  const backend = tf.backend() as TensorFlowBackend;
  const {binding} = backend;
  const totals = new Map<string, {count: number; milliseconds: number}>();
  const scalar = binding.createTensor([], DataType.float32, Float32Array.of(1));
  const wait = () => {
    const [{id}] = binding.executeOp('Neg', [], [scalar], 1);
    (binding as unknown as {tensorDataSync(id: number): unknown}).tensorDataSync(id);
    binding.deleteTensor(id);
  };
  const timed = <T>(body: () => T, name: (result: T) => string): T => {
    const begun = performance.now();
    const result = body();
    wait();
    const kernel = name(result);
    const total = totals.get(kernel) ?? {count: 0, milliseconds: 0};
    total.count++;
    total.milliseconds += performance.now() - begun;
    totals.set(kernel, total);
    return result;
  };
  backend.binding = Object.create(binding, {
    executeOp: {
      value: (...args: Parameters<typeof binding.executeOp>) =>
        timed(
          () => binding.executeOp(...args),
          (outputs: Handle[]) => `${args[0]} → ${outputs.map(({shape, dtype}) => `${dtype}[${shape}]`)[0]}`,
        ),
    },
    createTensor: {
      value: (...args: Parameters<typeof binding.createTensor>) =>
        timed(
          () => binding.createTensor(...args),
          () => `upload of ${args[1]}[${args[0]}]`,
        ),
    },
  });
  for (let i = 0; i < 200; i++)
    timed(
      () => undefined,
      () => 'wait',
    );
  try {
    await run();
  } finally {
    backend.binding = binding;
    binding.deleteTensor(scalar);
  }
  return [...totals]
    .map(([kernel, total]) => ({kernel, ...total}))
    .sort((a, b) => b.milliseconds - a.milliseconds);
}

import * as tf from '@tensorflow/tfjs';
import {runShader} from '../../../../layers/kernels/webgpu/device/runShader.ts';
import {shader} from '../../../../layers/kernels/webgpu/device/shader.ts';
import type {WebGPUBackend} from '../../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {adamWUpdate} from '../../../../layers/ops/adamWUpdate.ts';
import {compileShaders} from '../../../../layers/ops/compileShaders.ts';
import {rmsNorm} from '../../../../layers/ops/rmsNorm.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {expectClose} from '../../../expectClose.ts';
import {describeWebGPU} from './webgpuOnly.ts';

const backend = () => tf.backend() as unknown as WebGPUBackend;

/** Computes `factor · x` with a shader of its own for each `factor`. */
const scaled = (x: tf.Tensor, factor: string): tf.Tensor =>
  tf.engine().runKernel('Scaled', {x}, {factor}) as tf.Tensor;

const multiplied = shader((factor: string) => ({
  name: 'Scaled',
  outputs: {y: 'f32'},
  inputs: {x: 'f32'},
  workgroup: 1,
  body: `y[group.x] = ${factor} * x[group.x];`,
}));

tf.registerKernel({
  kernelName: 'Scaled',
  backendName: 'webgpu',
  kernelFunc: ({inputs: {x}, attrs}) => {
    const y = backend().makeTensorInfo((x as tf.TensorInfo).shape, 'float32');
    runShader(backend(), {
      shader: multiplied(attrs?.factor as string),
      buffers: {y, x: x as tf.TensorInfo},
      uniforms: {},
      workgroups: tf.util.sizeFromShape(y.shape),
    });
    return y;
  },
});

describeWebGPU('compileShaders', () => {
  let compiledLate: string[];
  let seen: [number, number][];
  const onProgress = (compiled: number, total: number) => void seen.push([compiled, total]);

  beforeEach(() => {
    seen = [];
    compiledLate = [];
    const {device} = backend();
    const {createComputePipeline} = GPUDevice.prototype;
    device.createComputePipeline = (descriptor) => {
      compiledLate.push(descriptor.label ?? '');
      return createComputePipeline.call(device, descriptor);
    };
  });
  afterEach(() => {
    Reflect.deleteProperty(backend().device, 'createComputePipeline');
  });

  test('compiles all shaders, ours and stock, and computes nothing', async () => {
    const x = tf.tensor2d([[3, 4, 0, 0]]);
    const weight = tf.tensor1d([1, 2, 3, 4]);
    const run = () => tf.tidy(() => scaled(tf.cumsum(rmsNorm(x, weight, 0), 1), '2.5'));
    await compileShaders(() => void run(), onProgress);
    const total = seen[0][1];
    expect(total).toBe(3);
    expect(seen).toEqual([0, 1, 2, 3].map((compiled) => [compiled, total]));
    const y = run();
    expect(compiledLate).toEqual([]);
    expectClose(await y.data(), [3, 11, 11, 11], {relative: 1e-5});
    await compileShaders(() => void run(), onProgress);
    expect(seen.length).toBe(total + 1);
    tf.dispose([x, weight, y]);
  });

  test('keeps no tensor and no buffer', async () => {
    const x = tf.tensor1d([1, 2]);
    let factor = 100;
    await expectNoLeak(() =>
      compileShaders(() => {
        tf.square(scaled(x, `${factor++}.0`));
      }),
    );
    expect(seen).toEqual([]);
    x.dispose();
  });

  test('leaves existing tensors as they are', async () => {
    const tensors = [1, 2, 3, 4].map((value) => tf.fill([3], value));
    const settings = {learningRate: 1, beta1: 0, beta2: 0, epsilon: 0, weightDecay: 0, step: 1};
    const [value, gradient, mean, variance] = tensors;
    const update = () => adamWUpdate(value, gradient, mean, variance, {...settings, overwrite: true});
    await compileShaders(() => void update());
    expect([...(await value.data())]).toEqual([1, 1, 1]);
    tf.dispose(update());
    expect([...(await value.data())]).toEqual([0, 0, 0]);
    tf.dispose(tensors);
  });

  test('refuses a run that keeps what was not computed', async () => {
    const x = tf.tensor1d([1, 2]);
    let kept: tf.Tensor | undefined;
    await expect(
      compileShaders(() => {
        kept = tf.keep(tf.exp(scaled(x, '11.0')));
      }),
    ).rejects.toMatchObject({code: 'UNSUPPORTED', message: expect.stringContaining('got one that keeps 1')});
    const variable = tf.variable(x);
    await expect(compileShaders(() => variable.assign(tf.sin(x)))).rejects.toMatchObject({
      code: 'UNSUPPORTED',
    });
    tf.dispose([x, variable, kept as tf.Tensor]);
  });

  test('passes on what the run throws, and computes again afterwards', async () => {
    const x = tf.tensor1d([1, 2]);
    await expect(
      compileShaders(() => {
        tf.tan(scaled(x, '12.0'));
        throw new Error('no such batch');
      }, onProgress),
    ).rejects.toThrow('no such batch');
    expect(seen).toEqual([]);
    const y = tf.tidy(() => tf.tan(scaled(x, '12.0')));
    expectClose(await y.data(), [Math.tan(12), Math.tan(24)], {relative: 1e-4});
    tf.dispose([x, y]);
  });

  test('counts a shader that cannot be compiled; running it reports the error', async () => {
    const x = tf.tensor1d([1, 2]);
    await compileShaders(() => void scaled(x, 'nonsense'), onProgress);
    expect(seen).toEqual([
      [0, 1],
      [1, 1],
    ]);
    const y = scaled(x, 'nonsense');
    await expect(y.data()).rejects.toMatchObject({
      code: 'DEVICE_LOST',
      message: expect.stringContaining("unresolved value 'nonsense'"),
    });
    tf.dispose([x, y]);
  });
});

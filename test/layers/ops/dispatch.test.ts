import * as tf from '@tensorflow/tfjs';
import {kernel} from '../../../layers/kernels/kernel.ts';
import {dispatchWithGradient} from '../../../layers/ops/dispatch.ts';
import {op, type Tensors} from '../../../layers/ops/op.ts';

const shiftedSquareOp = op<Tensors<'x' | 'shift'> & {mask?: tf.TensorInfo}, {factor: number}>(
  'TestShiftedSquare',
).withGradient({of: ['x'], read: ['x', 'mask']});

const seen: object[] = [];

const KERNELS = [
  kernel(shiftedSquareOp, 'cpu', ({inputs: {x, shift}, attrs, backend}) => {
    const [values, [offset]] = [x, shift].map(({dataId}) => backend.data.get(dataId).values as Float32Array);
    const y = values.map((value) => attrs.factor * value * value + offset);
    const extra = backend.makeTensorInfo([1], 'float32', Float32Array.of(2 * attrs.factor));
    return [backend.makeTensorInfo(x.shape, 'float32', y), extra];
  }),
  kernel(shiftedSquareOp.gradient, 'cpu', ({inputs, attrs, backend}) => {
    seen.push({inputs: Object.keys(inputs), attrs});
    const {dy, x, extra0} = inputs;
    const [up, values, [twice]] = [dy, x, extra0].map(
      ({dataId}) => backend.data.get(dataId).values as Float32Array,
    );
    return backend.makeTensorInfo(
      x.shape,
      'float32',
      values.map((value, i) => up[i] * twice * value),
    );
  }),
];

beforeAll(async () => {
  await tf.setBackend('cpu');
  for (const each of KERNELS) tf.registerKernel(each);
});

afterAll(() => {
  for (const {kernelName, backendName} of KERNELS) tf.unregisterKernel(kernelName, backendName);
});

test('a gradient kernel gets dy, whether it may overwrite it, the declared inputs that exist, and what forward kept', () => {
  const [x, shift] = [tf.tensor1d([1, 2, 3]), tf.tensor1d([5])];
  const composed = () => {
    throw new Error('composed');
  };
  const {value, grad} = tf.valueAndGrad((x) =>
    dispatchWithGradient(shiftedSquareOp, {x, shift}, {factor: 3}, composed),
  )(x, tf.tensor1d([1, 10, 100]));
  expect([...value.dataSync()]).toEqual([8, 17, 32]);
  expect([...grad.dataSync()]).toEqual([6, 120, 1800]);
  expect(seen).toEqual([{inputs: ['dy', 'x', 'extra0'], attrs: {factor: 3, isSpent: false}}]);
});

import * as tf from '@tensorflow/tfjs';
import {crossEntropy} from '../../../layers/ops/crossEntropy.ts';
import {linearCrossEntropy} from '../../../layers/ops/linearCrossEntropy.ts';
import {pack16} from '../../../layers/ops/pack16.ts';
import {storeQuantized} from '../../../layers/ops/quantizedMatrix.ts';
import type {StoredMatrix} from '../../../layers/ops/storedMatrix.ts';
import {quantizeNF4} from '../../../quant/blockwise/fourBit.ts';
import {unpackRows} from '../../../quant/float16.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {expectSameFunction, normal, numericalGradient} from './expectSameFunction.ts';

const LABELS = [2, -100, 0, 6, -100, 2];
const labelTensor = () => tf.tensor1d(LABELS, 'int32');

/** Computes the loss from a one-hot product, without ignored rows. */
function plain(logits: tf.Tensor2D): tf.Tensor {
  const kept = LABELS.flatMap((label, row) => (label === -100 ? [] : [row]));
  const rows = tf.gather(logits, tf.tensor1d(kept, 'int32'));
  const targets = tf.oneHot(
    tf.tensor1d(
      kept.map((row) => LABELS[row]),
      'int32',
    ),
    logits.shape[1],
  );
  return tf.neg(tf.sum(tf.mul(tf.logSoftmax(rows), targets)));
}

describeEachBackend('crossEntropy', () => {
  test('is its formula, in plain numbers', () => {
    const loss = crossEntropy(
      tf.tensor2d([
        [1, 2, 3],
        [9, 9, 9],
      ]),
      tf.tensor1d([1, -100], 'int32'),
    );
    expectClose(loss, [Math.log(Math.exp(1) + Math.exp(2) + Math.exp(3)) - 2]);
  });

  test('agrees with the plain tape', () => {
    const labels = labelTensor();
    expectSameFunction((logits) => crossEntropy(logits, labels), plain, [normal([6, 7], 1)]);
  });

  test('survives huge logits', () => {
    const loss = crossEntropy(
      tf.tensor2d([
        [3e4, 0],
        [-3e4, 0],
      ]),
      tf.tensor1d([0, 1], 'int32'),
    );
    expectClose(loss, [0]);
  });

  test('gradient is the slope', () => {
    const [logits, labels] = [normal([6, 7], 2), labelTensor()];
    const f = (x: tf.Tensor) => crossEntropy(x as tf.Tensor2D, labels);
    expectClose(tf.grad(f)(logits), numericalGradient(f, logits), {relative: 5e-3});
  });

  test('is zero without a gradient if all rows are ignored', () => {
    const labels = tf.tensor1d([-100, -100], 'int32');
    const {value, grad} = tf.valueAndGrad((x) => crossEntropy(x as tf.Tensor2D, labels))(normal([2, 3], 1));
    expectClose(value, [0]);
    expectClose(grad, tf.zeros([2, 3]));
  });

  test('names the shape it got', () => {
    expect(() => crossEntropy(normal([2, 3], 1), tf.tensor1d([0], 'int32'))).toThrow(
      'crossEntropy labels: expected [2], got [1]',
    );
  });
});

describeEachBackend('linearCrossEntropy', () => {
  const head = (dtype: 'float32' | 'bfloat16'): {weight: StoredMatrix; exact: tf.Tensor2D} => {
    const values = normal([7, 5], 3) as tf.Tensor2D;
    if (dtype === 'float32') return {weight: {tensor: values, dtype, rows: 7, cols: 5}, exact: values};
    const packed = pack16(values, dtype);
    const exact = unpackRows(packed.dataSync() as Int32Array, 7, 5, dtype);
    return {weight: {tensor: packed, dtype, rows: 7, cols: 5}, exact: tf.tensor2d(exact, [7, 5])};
  };

  describe.each(['float32', 'bfloat16'] as const)('%s head', (dtype) => {
    test.each([
      ['one chunk', undefined],
      ['chunks of two rows', 14],
      ['chunks of four rows, the last shorter', 28],
      ['row by row', 1],
    ])('in %s equals the loss of the full logits', (_, chunkElements) => {
      const {weight, exact} = head(dtype);
      const labels = labelTensor();
      expectSameFunction(
        (hidden) => linearCrossEntropy(hidden, weight, labels, -100, chunkElements),
        (hidden) => plain(tf.matMul(hidden, exact, false, true)),
        [normal([6, 5], 4)],
      );
    });
  });

  test('computes no gradient outside a tape', () => {
    const {weight} = head('float32');
    const [hidden, labels] = [normal([6, 5], 4) as tf.Tensor2D, labelTensor()];
    const kernels = (run: () => void) =>
      tf.profile(run as () => tf.Tensor).then(({kernels}) => kernels.map(({name}) => name));
    return (async () => {
      const plainRun = await kernels(() => linearCrossEntropy(hidden, weight, labels));
      const taped = await kernels(() =>
        tf.grad((x) => linearCrossEntropy(x as tf.Tensor2D, weight, labels))(hidden),
      );
      // The gradient of the hidden rows is another product with the same weight.
      expect(plainRun).not.toContain('Softmax');
      const products = (names: string[]) => names.filter((name) => name === 'BatchMatMul').length;
      expect(products(taped)).toBeGreaterThan(products(plainRun));
    })();
  });

  test('keeps one gradient, not the logits', () => {
    const {weight} = head('float32');
    const [hidden, labels] = [normal([6, 5], 4) as tf.Tensor2D, labelTensor()];
    expectNoLeak(() => tf.tidy(() => linearCrossEntropy(hidden, weight, labels, -100, 1)));
  });

  test('names the shapes it got', () => {
    const {weight} = head('float32');
    expect(() => linearCrossEntropy(normal([6, 4], 1), weight, labelTensor())).toThrow(
      'linearCrossEntropy hidden: expected [*, 5], got [6, 4]',
    );
    expect(() => linearCrossEntropy(normal([5, 5], 1), weight, labelTensor())).toThrow(
      'linearCrossEntropy labels: expected [5], got [6]',
    );
  });
});

describe('the kernel of linearCrossEntropy', () => {
  type Asked = {inputs: Record<string, tf.TensorInfo>; attrs: Record<string, unknown>};
  const asked: Asked[] = [];
  beforeAll(() => tf.setBackend('cpu'));
  beforeEach(() => {
    asked.length = 0;
    tf.registerKernel({
      kernelName: 'LinearCrossEntropy',
      backendName: 'cpu',
      kernelFunc: (args) => {
        const {inputs, attrs} = args as unknown as Asked;
        asked.push({inputs, attrs});
        const {shape} = inputs.hidden;
        return attrs.wantsGradient ? [tf.scalar(5), tf.fill(shape, 2)] : tf.scalar(5);
      },
    });
  });
  afterEach(() => tf.unregisterKernel('LinearCrossEntropy', 'cpu'));

  const hidden = () => normal([6, 32], 4) as tf.Tensor2D;
  const head = (rows: number, dtype: 'bfloat16' | 'float32' = 'bfloat16') => {
    const values = normal([rows, 32], 3) as tf.Tensor2D;
    return {tensor: dtype === 'float32' ? values : pack16(values, dtype), dtype, rows, cols: 32};
  };

  test('returns the loss and, if wanted, the gradient', () => {
    const labels = labelTensor();
    expect(linearCrossEntropy(hidden(), head(48), labels).dataSync()[0]).toBe(5);
    const gradient = tf.grad((x) => tf.mul(linearCrossEntropy(x as tf.Tensor2D, head(48), labels), 3))(
      hidden(),
    );
    expect([...gradient.dataSync()]).toEqual(new Array(6 * 32).fill(6));
    expect(asked.map(({attrs}) => attrs.wantsGradient)).toEqual([false, true]);
    expect(Object.keys(asked[0].inputs)).toEqual(['hidden', 'labels', 'weight']);
    expect(asked[0].attrs).toMatchObject({dtype: 'bfloat16', rows: 48, cols: 32});
  });

  test('gets the tensors of a quantized head in the order of its storage', () => {
    const values = Float32Array.from({length: 64 * 32}, (_, i) => Math.sin(i));
    const weight = storeQuantized(quantizeNF4(values, [64, 32], {doubleQuant: true}));
    linearCrossEntropy(hidden(), weight, labelTensor());
    const names = ['codes', 'absmaxCodes', 'nestedAbsmax', 'map'];
    expect(Object.keys(asked[0].inputs)).toEqual(['hidden', 'labels', ...names]);
    expect(asked[0].attrs).toMatchObject({dtype: 'nf4', blockSize: 64, nestedBlockSize: 256});
  });

  test('is not used for float32, a size that is no multiple of 16, or an ignored label that is not negative', () => {
    linearCrossEntropy(hidden(), head(48, 'float32'), labelTensor());
    linearCrossEntropy(hidden(), head(40), labelTensor());
    linearCrossEntropy(hidden(), head(48), tf.tensor1d([1, 2, 3, 4, 5, 6], 'int32'), 0);
    expect(asked).toEqual([]);
  });
});

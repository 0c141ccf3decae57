import * as tf from '@tensorflow/tfjs';
import {kernel} from '../../../layers/kernels/kernel.ts';
import {uploadEarly, uploadEarlyOp} from '../../../layers/ops/uploadEarly.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';

describeEachBackend('uploadEarly', (backend) => {
  test('leaves values and memory as they are', async () => {
    const numbers = tf.tensor1d([1.5, -2]);
    const ids = tf.tensor1d([3, 4, 5], 'int32');
    expectNoLeak(() => uploadEarly(numbers, ids));
    expect([...(await numbers.data())]).toEqual([1.5, -2]);
    expect([...(await ids.data())]).toEqual([3, 4, 5]);
    tf.dispose([numbers, ids]);
  });

  test('needs a kernel only on native TensorFlow', () => {
    expect(tf.getKernel(uploadEarlyOp.kernelName, backend) !== undefined).toBe(backend === 'tensorflow');
  });
});

test('calls the kernel of the backend for each tensor, in order', async () => {
  const uploaded: tf.DataId[] = [];
  await tf.setBackend('cpu');
  tf.registerKernel(
    kernel(uploadEarlyOp, 'cpu', ({inputs}) => {
      uploaded.push(inputs.tensor.dataId);
      return [];
    }),
  );
  const tensors = [tf.scalar(1), tf.scalar(2)];
  uploadEarly(...tensors);
  expect(uploaded).toEqual(tensors.map(({dataId}) => dataId));
  tf.unregisterKernel(uploadEarlyOp.kernelName, 'cpu');
  tf.dispose(tensors);
});

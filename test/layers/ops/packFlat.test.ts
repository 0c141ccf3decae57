import * as tf from '@tensorflow/tfjs';
import {packFlat} from '../../../layers/ops/packFlat.ts';
import {unpackFlat} from '../../../layers/ops/unpackFlat.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';

describeEachBackend('packFlat and unpackFlat', () => {
  const shapes = [[2, 3], [], [70, 100], [1], [2, 1, 2]];
  const tensors = () =>
    shapes.map((shape, i) => {
      const size = tf.util.sizeFromShape(shape);
      return tf.tensor(
        Float32Array.from({length: size}, (_, k) => 10_000 * i + k),
        shape,
      );
    });

  test('copy tensors into one, and back', async () => {
    const given = tensors();
    const expected = await Promise.all(given.map(async (tensor) => [...(await tensor.data())]));
    const flat = packFlat(given);
    expect(flat.shape).toEqual([6 + 1 + 7000 + 1 + 4]);
    expect([...(await flat.data())]).toEqual(expected.flat());
    const parts = unpackFlat(flat, shapes);
    tf.dispose([given, flat]);
    expect(parts.map(({shape}) => shape)).toEqual(shapes);
    expect(await Promise.all(parts.map(async (part) => [...(await part.data())]))).toEqual(expected);
  });

  test('copy values that are not on the device yet, again and again', async () => {
    for (const first of [0, 1, 2]) {
      const flat = tf.tensor1d(Float32Array.from({length: 4000}, (_, i) => first + i));
      const [head, tail] = unpackFlat(flat, [[10, 300], [1000]]);
      flat.dispose();
      const values = [await head.data(), await tail.data()].flatMap((part) => [...part]);
      expect(values).toEqual(Array.from({length: 4000}, (_, i) => first + i));
    }
  });

  test('keep no tensors', () => {
    const given = tensors();
    expectNoLeak(() => tf.tidy(() => unpackFlat(packFlat(given), shapes)));
    expectNoLeak(() => tf.tidy(() => unpackFlat(packFlat([given[1]]), [[]])));
  });
});

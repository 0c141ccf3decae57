import * as tf from '@tensorflow/tfjs';
import {blockwise8bitShapes, fromBlockwise8bit, toBlockwise8bit} from '../../../layers/index.ts';
import {dequantizeBlockwise, dynamicMap, quantizeBlockwise} from '../../../quant/index.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';

/** Returns values of many magnitudes, including a block of zeros. */
function draw(size: number, isSigned: boolean): Float32Array {
  return Float32Array.from({length: size}, (_, i) => {
    if (i >= 256 && i < 512) return 0;
    const value = Math.sin(i * 1.7) * 10 ** (-5 * Math.abs(Math.sin(i * 0.3)));
    return isSigned ? value : Math.abs(value);
  });
}

describeEachBackend('8-bit blocks on the device', () => {
  test.each([1, 4, 255, 256, 257, 1003])(
    '%i values have the codes and scales of quantizeBlockwise',
    (size) => {
      for (const isSigned of [true, false]) {
        const values = draw(size, isSigned);
        const expected = quantizeBlockwise(values, {map: dynamicMap(isSigned)});
        tf.tidy(() => {
          const stored = toBlockwise8bit(tf.tensor1d(values), isSigned);
          const shapes = blockwise8bitShapes(size);
          expect([stored.codes.shape, stored.absmax.shape]).toEqual([shapes.codes, shapes.absmax]);
          const bytes = new Uint8Array(Int32Array.from(stored.codes.dataSync()).buffer);
          expect(Array.from(bytes.subarray(0, size))).toEqual(Array.from(expected.codes));
          expect(Array.from(stored.absmax.dataSync())).toEqual(Array.from(expected.absmax));

          const back = fromBlockwise8bit(stored, isSigned, [1, size]);
          expect(back.shape).toEqual([1, size]);
          const exact = dequantizeBlockwise(expected, {map: dynamicMap(isSigned)});
          expect(Array.from(back.dataSync())).toEqual(Array.from(exact));
        });
      }
    },
  );

  test('keep no tensors', () => {
    const values = tf.tensor1d(draw(1003, true));
    const stored = toBlockwise8bit(values, true);
    expectNoLeak(() => toBlockwise8bit(values, true));
    expectNoLeak(() => fromBlockwise8bit(stored, true, [17, 59]));
    tf.dispose([values, stored] as tf.TensorContainer);
  });
});

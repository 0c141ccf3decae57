import * as tf from '@tensorflow/tfjs';
import {useBackend} from '../../../../src/index.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';

describe('Identity on wasm', () => {
  beforeAll(() => useBackend('wasm'));

  test('a clone shares the data and outlives the original', () => {
    const x = tf.tensor1d([1, 2, 3]);
    const {numDataBuffers} = tf.memory();
    const clones = [x.clone(), tf.tidy(() => x.clone())];
    expect(tf.memory()).toMatchObject({numDataBuffers});
    x.dispose();
    clones[0].dispose();
    tf.dispose(tf.ones([3])); // would take the memory if it were free
    expect([...clones[1].dataSync()]).toEqual([1, 2, 3]);
    clones[1].dispose();
    expect(tf.memory().numDataBuffers).toBe(numDataBuffers - 1);
  });

  test('a variable that is assigned later leaves its clone alone', () => {
    const weight = tf.variable(tf.tensor1d([1, 2]));
    const before = weight.clone();
    weight.assign(tf.tensor1d([5, 6]));
    expect([...before.dataSync()]).toEqual([1, 2]);
    tf.dispose([weight, before]);
  });

  test('clones strings, and leaves no tensor behind', () => {
    const words = tf.tensor1d(['a', 'b']);
    expect(words.clone().dataSync()).toEqual(['a', 'b']);
    expectNoLeak(() => words.clone());
    expectNoLeak(() => tf.tidy(() => tf.ones([4]).clone()));
  });
});

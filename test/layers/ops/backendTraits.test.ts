import * as tf from '@tensorflow/tfjs';
import {backendTraits, setBackendTraits} from '../../../layers/ops/backendTraits.ts';
import {DeviceBackend} from '../../src/training/optimizers/deviceBackend.ts';

test('an unknown backend has the defaults and the traits that were set', async () => {
  await DeviceBackend.use('unknown');
  const defaults = {
    readsAtOnce: true,
    keepsIntegers: true,
    isOnHost: false,
    logitsAtOnce: 1 << 24,
    maxTensorBytes: Number.POSITIVE_INFINITY,
    decodesStacks: {sequences: 8, adapters: true},
  };
  expect(backendTraits()).toEqual(defaults);
  setBackendTraits(tf.backend(), {readsAtOnce: false});
  setBackendTraits(tf.backend(), {logitsAtOnce: 7});
  expect(backendTraits()).toEqual({...defaults, readsAtOnce: false, logitsAtOnce: 7});
});

test('TensorFlow.js’s own backends differ by name', async () => {
  await tf.setBackend('cpu');
  expect(backendTraits()).toMatchObject({readsAtOnce: true, keepsIntegers: true, isOnHost: true});
});

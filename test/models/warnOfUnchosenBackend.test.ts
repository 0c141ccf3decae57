import * as tf from '@tensorflow/tfjs';
import {setWarningHandler} from '../../quant/warn.ts';
import {Llama} from '../../src/index.ts';

test('a model that is loaded before a backend is chosen warns once, instead of advertising tfjs-node', async () => {
  expect(tf.getBackend()).toBeFalsy();
  const warnings: string[] = [];
  const before = setWarningHandler((message) => warnings.push(message));
  const banner = jest.spyOn(console, 'warn').mockImplementation();
  try {
    for (let i = 0; i < 2; i++) (await Llama.fromPretrained('examples/quickstart/model')).dispose();
    expect(warnings).toEqual([
      expect.stringContaining("takes cpu, its slowest. Call await useBackend('auto')"),
    ]);
    expect(banner).not.toHaveBeenCalled();
  } finally {
    setWarningHandler(before);
    banner.mockRestore();
  }
});

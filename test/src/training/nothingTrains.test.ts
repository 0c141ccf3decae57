import * as tf from '@tensorflow/tfjs';
import {countParameters} from '../../../models/index.ts';
import {Llama} from '../../../src/index.ts';
import {errorOf, inFolder, tinyConfig} from '../../models/tinyLlama.ts';

const batch = {inputIds: [[1, 2, 3]], labels: [[1, 2, 3]]};

function tiny(): Llama {
  const model = Llama.fromConfig(tinyConfig);
  model.compile({optimizer: tf.train.sgd(0.1)});
  return model;
}

test('a loaded adapter that is frozen: training says how to make it trainable, and that works', () =>
  inFolder(async (folder) => {
    await tf.setBackend('cpu');
    const source = tiny();
    source.applyLoRA({rank: 1, targetModules: ['q_proj']});
    await source.saveAdapter(folder);
    source.dispose();

    const model = tiny();
    await model.loadAdapter(folder, {adapterName: 'mine'});
    expect(await errorOf(() => model.trainOnBatch(batch))).toEqual({
      code: 'INVALID_ARGUMENT',
      message:
        'training: expected trainable weights, got none. Adapter "mine" is frozen: ' +
        'load it with loadAdapter(folder, {trainable: true}), or call setAdapter("mine").',
    });
    model.setAdapter([]);
    expect((await errorOf(() => model.trainOnBatch(batch))).message).toContain(
      'Adapter "mine" is inactive: ',
    );
    model.setAdapter('mine');
    expect(Number.isFinite((await model.trainOnBatch(batch)).loss)).toBe(true);
    model.dispose();

    const whole = tiny();
    whole.trainable = false;
    whole.applyLoRA({rank: 1}); // then adapters train, although the base was frozen before
    const {trainable} = countParameters(whole);
    expect(trainable).toBeGreaterThan(0);
    whole.trainable = false;
    expect(countParameters(whole).trainable).toBe(0);
    expect((await errorOf(() => whole.trainOnBatch(batch))).message).toMatch(
      /got none\. Set model\.trainable = true\.$/,
    );
    whole.trainable = true;
    expect(countParameters(whole).trainable).toBe(trainable);
    whole.dispose();

    const frozen = tiny();
    for (const layer of frozen.layers) layer.trainable = false;
    expect((await errorOf(() => frozen.trainOnBatch(batch))).message).toContain('Call applyLoRA() first.');
    frozen.dispose();
  }));

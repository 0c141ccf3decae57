import * as tf from '@tensorflow/tfjs';
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

    const frozen = tiny();
    for (const layer of frozen.layers) layer.trainable = false;
    expect((await errorOf(() => frozen.trainOnBatch(batch))).message).toContain('Call applyLoRA() first.');
    frozen.dispose();
  }));

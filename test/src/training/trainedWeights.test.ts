import {existsSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {setWarningHandler} from '../../../quant/warn.ts';
import {Llama} from '../../../src/index.ts';
import {restoreTrainedWeights, saveTrainedWeights} from '../../../src/training/checkpoints/trainedWeights.ts';
import {inFolder} from '../../models/tinyLlama.ts';

const FIXTURES = 'test/parity/loading/fixtures';

// Each has a tensor that does not train: MiCA's B, and another output head.
test.each(['init-mica', 'head-changed'])('a run on %s can be resumed', (name) =>
  inFolder(async (folder) => {
    await tf.setBackend('cpu');
    const restoreHandler = setWarningHandler(() => {});
    const model = await Llama.fromPretrained(join(FIXTURES, 'base'));
    await model.loadAdapter(join(FIXTURES, 'adapters', name), {trainable: true});
    setWarningHandler(restoreHandler);
    const values = () => [...model.trainableParameters().values()].map((weight) => [...weight.dataSync()]);
    const trained = values();
    await saveTrainedWeights(model, folder);
    expect(existsSync(join(folder, 'trained_weights.safetensors'))).toBe(true);
    tf.tidy(() => {
      for (const weight of model.trainableParameters().values()) weight.assign(tf.ones(weight.shape));
    });
    restoreTrainedWeights(model, folder);
    expect(values()).toEqual(trained);
    model.dispose();
  }),
);

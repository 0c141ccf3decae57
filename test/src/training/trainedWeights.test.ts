import {existsSync, statSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {setWarningHandler} from '../../../quant/warn.ts';
import {Llama} from '../../../src/index.ts';
import {restoreTrainedWeights, saveTrainedWeights} from '../../../src/training/checkpoints/trainedWeights.ts';
import {DiskRunFolder} from '../../../src/training/output/diskRunFolder.ts';
import {inFolder, tinyConfig} from '../../models/tinyLlama.ts';

const FIXTURES = 'test/parity/loading/fixtures';

// Each has a tensor that does not train: MiCA's B, and another output head.
test.each(['init-mica', 'head-changed'])('a run on %s can be resumed', (name) =>
  inFolder(async (path) => {
    const folder = new DiskRunFolder(path);
    await tf.setBackend('cpu');
    const restoreHandler = setWarningHandler(() => {});
    const model = await Llama.fromPretrained(join(FIXTURES, 'base'));
    await model.loadAdapter(join(FIXTURES, 'adapters', name), {trainable: true});
    setWarningHandler(restoreHandler);
    const values = () => [...model.trainableParameters().values()].map((weight) => [...weight.dataSync()]);
    const trained = values();
    await saveTrainedWeights(model, folder);
    expect(existsSync(join(path, 'trained_weights.safetensors'))).toBe(true);
    tf.tidy(() => {
      for (const weight of model.trainableParameters().values()) weight.assign(tf.ones(weight.shape));
    });
    await restoreTrainedWeights(model, folder);
    expect(values()).toEqual(trained);
    model.dispose();
  }),
);

test.each([true, false])('a value head is saved and restored beside an adapter: %s', (isAdapted) =>
  inFolder(async (path) => {
    const folder = new DiskRunFolder(path);
    await tf.setBackend('cpu');
    const model = Llama.fromConfig(tinyConfig, {seed: 1});
    if (isAdapted) model.applyLoRA({rank: 2});
    model.addValueHead({seed: 3});
    const values = () => [...model.trainableParameters().values()].map((weight) => [...weight.dataSync()]);
    const trained = values();
    await saveTrainedWeights(model, folder);
    expect(existsSync(join(path, 'value_head.safetensors'))).toBe(true);
    expect(existsSync(join(path, 'trained_weights.safetensors'))).toBe(false);
    tf.tidy(() => {
      for (const weight of model.trainableParameters().values()) weight.assign(tf.ones(weight.shape));
    });
    await restoreTrainedWeights(model, folder);
    expect(values()).toEqual(trained);
    model.removeValueHead();
    if (isAdapted)
      await expect(restoreTrainedWeights(model, folder)).rejects.toThrow(
        'the model does not train this weight',
      );
    model.dispose();
  }),
);

test('a run of several adapters is refused with their names if they are others', () =>
  inFolder(async (path) => {
    const folder = new DiskRunFolder(path);
    await tf.setBackend('cpu');
    const model = Llama.fromConfig(tinyConfig, {seed: 1});
    for (const adapterName of ['legal', 'brief', 'other']) model.applyLoRA({rank: 2, adapterName});
    const refused = (active: string, advice: string) =>
      expect(restoreTrainedWeights(model, folder)).rejects.toMatchObject({
        code: 'UNKNOWN_ADAPTER',
        message:
          `checkpoint ${folder.fullPath} adapters: expected brief, legal to be active, as in the run, ` +
          `got ${active}. ${advice}`,
      });
    await saveTrainedWeights(model.setAdapter(['legal', 'brief']), folder);
    model.setAdapter('legal');
    await refused('legal', 'Call setAdapter(["brief","legal"]) once the model has them.');
    model.setAdapter(['legal', 'other']);
    await refused('legal, other', 'Call setAdapter(["brief","legal"]) once the model has them.');
    model.setAdapter(['legal', 'brief']).renameAdapter('brief', 'short');
    await refused('legal, short', "If it was renamed, call renameAdapter('short', 'brief') to resume.");
    model.renameAdapter('legal', 'law');
    await refused('law, short', 'If they were renamed, call renameAdapter for each of law, short to resume.');
    await restoreTrainedWeights(model.renameAdapter('law', 'legal').renameAdapter('short', 'brief'), folder);
    model.dispose();
  }));

test('a run of another rank is refused with both shapes, whatever else is in the folder', () =>
  inFolder(async (path) => {
    /** As in browsers, a file is no folder to look into. */
    class StrictFolder extends DiskRunFolder {
      override async has(name: string): Promise<boolean> {
        if (statSync(this.path).isFile()) throw new Error(`expected a folder, got the file ${this.path}`);
        return super.has(name);
      }
      override subfolder(name: string): StrictFolder {
        return new StrictFolder(join(this.path, name));
      }
    }
    const folder = new StrictFolder(path);
    await tf.setBackend('cpu');
    const [saved, other] = [2, 1].map((rank) => Llama.fromConfig(tinyConfig, {seed: 1}).applyLoRA({rank}));
    await saveTrainedWeights(saved, folder);
    await saveTrainedWeights(saved, folder.subfolder('checkpoint-5'));
    await expect(restoreTrainedWeights(other, folder)).rejects.toMatchObject({code: 'SHAPE_MISMATCH'});
    for (const model of [saved, other]) model.dispose();
  }));

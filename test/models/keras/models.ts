import * as tf from '@tensorflow/tfjs';

/** Makes an MLP classifier with the layers `fc1`, `fc2` and `head`: `[B, 6]` → `[B, 3]`. */
export function classifier(): tf.LayersModel {
  return tf.sequential({
    name: 'classifier',
    layers: [
      tf.layers.dense({name: 'fc1', units: 8, activation: 'relu', inputShape: [6], ...seeded(1)}),
      tf.layers.dense({name: 'fc2', units: 5, activation: 'tanh', useBias: false, ...seeded(2)}),
      tf.layers.dense({name: 'head', units: 3, activation: 'softmax', ...seeded(3)}),
    ],
  });
}

export const seeded = (seed: number) => ({
  kernelInitializer: tf.initializers.glorotUniform({seed}),
  biasInitializer: tf.initializers.randomNormal({seed: seed + 50}),
});

/** Makes a model with two inputs, a layer used twice, a nested model, batch normalization, a merge and two outputs. */
export function branched(): tf.LayersModel {
  const inner = tf.sequential({
    name: 'tower',
    layers: [
      tf.layers.dense({name: 'fc', units: 6, activation: 'relu', inputShape: [6], ...seeded(4)}),
      tf.layers.batchNormalization({name: 'norm'}),
    ],
  });
  const [left, right] = ['left', 'right'].map((name) => tf.input({shape: [6], name}));
  const shared = tf.layers.dense({name: 'shared', units: 6, ...seeded(5)});
  const sides = [left, right].map((side) => inner.apply(shared.apply(side)) as tf.SymbolicTensor);
  const both = tf.layers.concatenate({name: 'both'}).apply(sides);
  const first = tf.layers.dense({name: 'fc', units: 2, ...seeded(6)}).apply(both);
  const second = tf.layers.dense({name: 'second', units: 4, ...seeded(7)}).apply(both);
  const outputs = [first, second] as tf.SymbolicTensor[];
  return tf.model({name: 'branched', inputs: [left, right], outputs});
}

/** A layer that only this test knows. */
class Twice extends tf.layers.Layer {
  static className = 'Twice';
  override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
    return tf.mul([inputs].flat()[0], 2);
  }
}
tf.serialization.registerClass(Twice);

/** Dense layers around recurrent ones, one of which takes its first state from another's last: `[B, 6]` → `[B, 2]`. */
export function recurrent(): tf.LayersModel {
  const input = tf.input({shape: [6]});
  const apply = (layer: tf.layers.Layer, to: tf.SymbolicTensor, args?: object) =>
    [layer.apply(to, args as never)].flat() as tf.SymbolicTensor[];
  const [steps] = apply(tf.layers.reshape({targetShape: [3, 2]}), input);
  const [before] = apply(tf.layers.dense({name: 'before', units: 4, ...seeded(10)}), steps);
  const gru = {units: 3, returnState: true, returnSequences: true, ...seeded(11)};
  const [sequence, last] = apply(tf.layers.gru(gru), before);
  const [state] = apply(tf.layers.dense({name: 'state', units: 3, ...seeded(12)}), last);
  const [ahead] = apply(tf.layers.gru({units: 3, ...seeded(13)}), sequence, {initialState: [state]});
  const cell = tf.layers.gru({units: 2, ...seeded(14)}) as never;
  const [both] = apply(tf.layers.bidirectional({layer: cell, mergeMode: 'concat'}), before);
  const joined = tf.layers.concatenate().apply([ahead, both]) as tf.SymbolicTensor;
  const [doubled] = apply(new Twice({name: 'twice'}), joined);
  const [output] = apply(tf.layers.dense({name: 'after', units: 2, ...seeded(15)}), doubled);
  return tf.model({inputs: input, outputs: output});
}

/** Returns normal values, the same each time. */
export const normal = (shape: number[], seed: number) => tf.randomNormal(shape, 0, 1, 'float32', seed);

/** Saves and loads a model in memory, as Keras's JSON and binary weights. */
export async function savedAndLoaded(model: tf.LayersModel): Promise<tf.LayersModel> {
  let saved: tf.io.ModelArtifacts | undefined;
  await model.save(
    tf.io.withSaveHandler(async (artifacts) => {
      saved = artifacts;
      return {modelArtifactsInfo: {dateSaved: new Date(), modelTopologyType: 'JSON'}};
    }),
  );
  const {weightSpecs, weightData, ...json} = saved!;
  return tf.loadLayersModel(tf.io.fromMemory({...JSON.parse(JSON.stringify(json)), weightSpecs, weightData}));
}

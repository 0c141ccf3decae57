import * as tf from '@tensorflow/tfjs';
import type {LoRADense} from '../../../layers/loraDense.ts';
import {letSignalsThrough} from '../../letSignalsThrough.ts';
import type {AdapterSet} from '../adapterSet.ts';
import {assertCalibrated, type CalibratedModel} from './calibration.ts';
import {EVA_DEFAULTS, evaMatrices} from './eva.ts';
import {initializableLayers} from './initializableLayers.ts';
import {configOf, type InitializeLoRAOptions, wrongInitialization} from './initializeLoRAOptions.ts';
import {redistributeRanks} from './redistributeRanks.ts';

/** Finds the principal components of the inputs, and gives each layer as many as explain most there. */
export async function initializeEva(
  model: object,
  adapters: AdapterSet,
  adapterName: string,
  options: InitializeLoRAOptions,
): Promise<void> {
  assertCalibrated(model);
  const {method, onProgress, signal} = options;
  const config = {...EVA_DEFAULTS, ...options.evaConfig};
  const layers = initializableLayers(adapters, adapterName, method);
  if (adapters.names.length > 1)
    throw wrongInitialization('adapterName', 'the only adapter, as in PEFT', adapters.names.join(', '));
  const reported = new Set<LoRADense>();
  const targets = layers.map((layer) => ({layer, rank: layer.adapter(adapterName).settings.rank}));
  const base: CalibratedModel = Object.create(model, {
    forward: {
      value: (...args: Parameters<CalibratedModel['forward']>) =>
        adapters.with([], () => model.forward(...args)),
    },
    logitsOf: {value: (hidden: tf.Tensor) => adapters.with([], () => model.logitsOf(hidden))},
  });
  const matrices = await evaMatrices(base, targets, [...options.batches!], config, async (converged) => {
    await letSignalsThrough(signal);
    for (const layer of converged) {
      if (reported.has(layer)) continue;
      reported.add(layer);
      onProgress?.({layer: layer.name, done: reported.size, total: layers.length});
    }
  });
  redistributeRanks(
    adapters,
    adapterName,
    new Map([...matrices].map(([{name}, {rows}]) => [name, rows])),
    config.adjustScalingFactors,
  );
  const adaptedLayers = adapters.lowRank();
  for (const [{name}, {values}] of matrices) {
    const adapted = adaptedLayers.get(name);
    if (!adapted) continue; // its rank is 0
    const {loraA} = adapted.adapter(adapterName);
    const matrix = tf.tensor2d(values, loraA.logicalShape as [number, number]);
    loraA.write(matrix);
    matrix.dispose();
  }
  adapters.setInitialized(adapterName, {method, initial: new Map(), config: configOf(options)});
}

import * as tf from '@tensorflow/tfjs';
import {hashName} from '../../../layers/hashName.ts';
import type {LoRADense} from '../../../layers/loraDense.ts';
import {unpackMatrix} from '../../../layers/ops/unpackMatrix.ts';
import {assertFinite} from '../../../quant/assertFinite.ts';
import {letSignalsThrough} from '../../letSignalsThrough.ts';
import {assertCalibrated, covariances, measuredTogether, valuesOf, weightGradients} from './calibration.ts';
import {CORDA_DEFAULTS, corda, oriented} from './corda.ts';
import {INITIALIZATIONS, type InitialValues} from './initializations.ts';
import {
  type InitializeLoRAOptions,
  initializationNamed,
  wrongInitialization,
} from './initializeLoRAOptions.ts';
import {LORA_GA_DEFAULTS, loraGA} from './loraGA.ts';

/** Yields the first values of layers. */
export type Compute = (layers: LoRADense[]) => AsyncGenerator<[layer: LoRADense, values: InitialValues]>;

/** Returns what computes the first values of layers by a method. */
export function initialValues(model: object, adapterName: string, options: InitializeLoRAOptions): Compute {
  const {loftqBits = 4, loftqIterations = 1, seed = 0, signal} = options;
  const method = initializationNamed(options.method)!;
  const ownOf = (layer: LoRADense) => {
    const {settings, ownScaling} = layer.adapter(adapterName);
    const ownSeed = seed + hashName(`${layer.name}.${adapterName}`);
    return {rank: settings.rank, scaling: ownScaling, seed: ownSeed};
  };
  const goOn = () => letSignalsThrough(signal);
  if (method === 'corda') {
    return async function* (layers) {
      assertCalibrated(model);
      const config = {...CORDA_DEFAULTS, ...options.cordaConfig};
      for (const group of measuredTogether(layers, ({base}) => 8 * base.inputDim ** 2)) {
        const measured = await covariances(model, group, options.batches!, goOn);
        try {
          for (const [layer, covariance] of measured) {
            await goOn();
            const product = await valuesOf(oriented(layer.base.weight.matrix(), covariance));
            assertFinite(product.values, `corda for ${layer.name}, the covariance of its inputs`);
            yield [layer, corda(await weightOf(layer), product, ownOf(layer), config)];
          }
        } finally {
          tf.dispose([...measured.values()]);
        }
      }
    };
  }
  if (method === 'lora_ga') {
    return async function* (layers) {
      assertCalibrated(model);
      const config = {...LORA_GA_DEFAULTS, ...options.loraGAConfig};
      for (const group of measuredTogether(layers, ({base}) => 8 * base.units * base.inputDim)) {
        const measured = await weightGradients(model, group, adapterName, options.batches!, goOn);
        try {
          if (measured.size < group.length) throw wrongInitialization('batches', 'labels that count', 'none');
          for (const [layer, gradient] of measured) {
            await goOn();
            const values = await valuesOf(gradient);
            assertFinite(values.values, `lora_ga for ${layer.name}, the gradient`);
            yield [layer, loraGA(await weightOf(layer), values, ownOf(layer), config)];
          }
        } finally {
          tf.dispose([...measured.values()]);
        }
      }
    };
  }
  const compute = INITIALIZATIONS[method as keyof typeof INITIALIZATIONS];
  return async function* (layers) {
    for (const layer of layers) {
      await goOn();
      yield [layer, compute(await weightOf(layer), {...ownOf(layer), loftqBits, loftqIterations})];
    }
  };
}

async function weightOf({base}: LoRADense) {
  const matrix = tf.tidy(() => unpackMatrix(base.weight.matrix()));
  const values = (await matrix.data()) as Float32Array;
  matrix.dispose();
  return {rows: base.units, cols: base.inputDim, values};
}

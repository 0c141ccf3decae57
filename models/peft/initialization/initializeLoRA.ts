import * as tf from '@tensorflow/tfjs';
import type {LoRADense} from '../../../layers/loraDense.ts';
import {LoRAEmbedding} from '../../../layers/loraEmbedding.ts';
import {unpackMatrix} from '../../../layers/ops/unpackMatrix.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions} from '../../../quant/knownOptions.ts';
import {assertBatch} from '../../assertBatch.ts';
import type {BusyModel} from '../../assertIdle.ts';
import type {LayerWatch} from '../../layerWatch.ts';
import type {AdapterSet} from '../adapterSet.ts';
import {changesBase} from './changesBase.ts';
import {initializableLayers, layersOf} from './initializableLayers.ts';
import type {InitialValues} from './initializations.ts';
import {initializeEva} from './initializeEva.ts';
import {
  assertInitializeLoRAOptions,
  configOf,
  INITIALIZE_LORA_OPTIONS,
  type InitializedAs,
  type InitializeLoRAOptions,
  initializationNamed,
  wrongInitialization,
} from './initializeLoRAOptions.ts';
import {type Compute, initialValues} from './initialValues.ts';

/** The first matrices of layers by their names, where no file of the adapter itself says what the base gave up. */
export type FirstMatrices = ReadonlyMap<string, {a: Float32Array; b: Float32Array}>;

/** Initializes an adapter from its base; see `initializeLoRA` of a model. */
export async function initializeLoRA(
  model: BusyModel,
  adapters: AdapterSet,
  given: InitializeLoRAOptions,
): Promise<void> {
  assertKnownOptions('initializeLoRA', given, INITIALIZE_LORA_OPTIONS);
  const options = {...given, batches: given.batches && [...given.batches]};
  const {adapterName = adapters.sole('initializeLoRA')} = options;
  assertInitializeLoRAOptions(options);
  for (const batch of options.batches ?? []) assertBatch('initializeLoRA', batch);
  const earlier = adapters.initialized(adapterName)?.method;
  if (earlier !== undefined && changesBase(earlier))
    throw wrongInitialization(`adapter "${adapterName}"`, 'one that has not changed its base', earlier);
  model.busyWith = 'initializeLoRA';
  try {
    if (options.method === 'eva') await initializeEva(model, adapters, adapterName, options);
    else {
      const compute = initialValues(model, adapterName, options);
      await initialize(adapters, adapterName, options, compute, true);
    }
  } finally {
    model.busyWith = undefined;
  }
}

/**
 * Changes the base as the initialization of a loaded adapter did, without changing the adapter.
 *
 * @throws TfjsLoraError, with nothing changed
 */
export async function changeBaseAs(
  model: BusyModel,
  adapters: AdapterSet,
  adapterName: string,
  how: InitializedAs,
  watch: LayerWatch,
  first?: FirstMatrices,
): Promise<void> {
  if (layersOf(adapters, adapterName).some(({base}) => !base.weight.isAllocated)) {
    adapters.setInitialized(adapterName, {method: how.method, config: {}, initial: new Map()});
    return; // a model that is only counted or checked
  }
  model.busyWith = 'loadAdapter';
  try {
    const given: Compute | undefined =
      first &&
      async function* (layers) {
        for (const layer of layers) yield [layer, {...first.get(layer.name)!, base: 'residual'}];
      };
    const compute = given ?? initialValues(model, adapterName, how);
    await initialize(adapters, adapterName, {...how, ...watch}, compute, false);
  } finally {
    model.busyWith = undefined;
  }
}

/** Computes the first values for all layers, and then sets them, so that a failure changes nothing. */
async function initialize(
  adapters: AdapterSet,
  adapterName: string,
  options: InitializeLoRAOptions,
  compute: Compute,
  writesFactors: boolean,
): Promise<void> {
  const {method, onProgress} = options;
  const layers = initializableLayers(adapters, adapterName, method);
  if (adapters.model.replication && changesBase(method)) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${method} for adapter "${adapterName}": expected layers with weights of their own, because the base changes, got ` +
        'replicated ones, which share theirs',
    );
  }
  const isLikePeft = ['pissa', 'olora'].includes(initializationNamed(method)!); // which leaves embeddings as they are
  for (const [name, layer] of adapters.layers())
    if (layer instanceof LoRAEmbedding && layer.adapters.has(adapterName) && !isLikePeft)
      throw wrongInitialization(
        `${method} for ${name}`,
        'a linear layer',
        'an embedding. Leave it out of targetModules.',
      );
  const computed = new Map<LoRADense, InitialValues>();
  for await (const [layer, values] of compute(layers)) {
    computed.set(layer, values);
    onProgress?.({layer: layer.name, done: computed.size, total: layers.length});
  }
  const initial = new Map<string, InitialValues>();
  for (const [layer, values] of computed) {
    const {loraA, loraB, ownScaling} = layer.adapter(adapterName);
    tf.tidy(() => {
      const a = tf.tensor2d(values.a, loraA.logicalShape as [number, number]);
      const b = tf.tensor2d(values.b, loraB.logicalShape as [number, number]);
      if (writesFactors)
        for (const [parameter, value] of [
          [loraA, a],
          [loraB, b],
        ] as const)
          parameter.write(value);
      changeBase(layer, values, () => tf.mul(tf.matMul(b, a), ownScaling));
    });
    if (values.base === 'residual') initial.set(layer.name, values);
  }
  const config = writesFactors ? configOf(options) : {}; // a file has its own
  adapters.setInitialized(adapterName, {method, initial, config});
}

function changeBase({base: {weight}}: LoRADense, {base}: InitialValues, update: () => tf.Tensor2D): void {
  if (base === undefined) return;
  const shape = weight.logicalShape as [number, number];
  const value =
    base === 'residual'
      ? tf.sub(unpackMatrix(weight.matrix()), update())
      : tf.tensor2d(base.dequantize(), shape);
  weight.write(weight.stored(value));
}

import {DEFAULT_ADAPTER} from '../../layers/adapter.ts';
import type {LoRADenseClass} from '../../layers/loraDense.ts';
import type {Parameter} from '../../layers/parameter.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {type FolderSource, openFolder} from '../../quant/folders/openFolder.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import {assertIdle, type BusyModel} from '../assertIdle.ts';
import type {TensorProgress} from '../savePretrained.ts';
import {openWeights, readAdapterConfig, readTensors} from './adapterFiles.ts';
import {biasParameters} from './adapterParameters.ts';
import type {AdapterSet} from './adapterSet.ts';
import {assertPlaces, type BaseChange, baseChange, baseParameters, warnOfChanges} from './baseChange.ts';
import {fillAdapter} from './fillAdapter.ts';
import {firstMatrices, firstMatricesFile} from './firstMatrices.ts';
import {changeBaseAs} from './initialization/initializeLoRA.ts';
import {savedModules} from './savedModules.ts';

/** The part of a model that an adapter's files may change, besides its adapters. */
interface ChangedModel extends BusyModel {
  /** Whether another model has the same base weights, which must then not change. Default false. */
  readonly sharesBase?: boolean;
  namedParameters(): Map<string, Parameter>;
}

export interface LoadAdapterOptions {
  /** Name of the adapter. Default `default`. */
  adapterName?: string;
  /** Whether the adapter trains. Default false: it is frozen. */
  trainable?: boolean;
  /**
   * Folder of the adapter from before training, for an adapter of `corda` or `lora_ga` that PEFT trained: PEFT's
   * `path_initial_model_for_weight_conversion`. Default: the matrices that `saveAdapter` wrote beside the adapter.
   */
  initialAdapter?: FolderSource;
  /** A subclass of `LoRADense` for the adapter. Default: the class that is registered for its `peft_type`. */
  layerClass?: LoRADenseClass;
  /** Called after each tensor is read. */
  onProgress?: (progress: TensorProgress) => void;
  /** Stops before the next tensor is read, with the signal's reason as the error; the model does not change. */
  signal?: AbortSignal;
}
const LOAD_ADAPTER_OPTIONS = {
  adapterName: true,
  trainable: true,
  initialAdapter: true,
  layerClass: true,
  onProgress: true,
  signal: true,
} satisfies OptionNames<LoadAdapterOptions>;

/**
 * Loads a PEFT folder. If anything is wrong, the model does not change. Weights of the model itself in the file, as
 * PEFT adds them for an adapted head, replace the model's where they differ, as in PEFT, and a warning says so.
 */
export async function loadAdapter(
  model: ChangedModel,
  adapters: AdapterSet,
  source: FolderSource,
  given: LoadAdapterOptions = {},
): Promise<void> {
  assertKnownOptions('loadAdapter', given, LOAD_ADAPTER_OPTIONS);
  const {adapterName = DEFAULT_ADAPTER, trainable = false, onProgress, signal} = given;
  signal?.throwIfAborted();
  const folder = openFolder(source);
  const {config, options, layerClass, initialized, where} = await readAdapterConfig(folder, given.layerClass);
  if (initialized && model.sharesBase) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where} init_lora_weights: expected one that leaves the base as it is, got ` +
        `${initialized.method}, and the base is shared with the given model. Convert the adapter to plain LoRA.`,
    );
  }
  const firstFile = await firstMatricesFile(folder, initialized?.method, given.initialAdapter);
  const file = await openWeights(folder);
  const changes: BaseChange[] = [];
  try {
    const bytes = await readTensors(file, {onProgress, signal});
    const copied = savedModules(options, adapters.model, true);
    const base = baseParameters(adapters.model, model.namedParameters(), file, copied);
    for (const [name, parameter] of base) {
      const change = await baseChange(name, parameter, file, bytes.get(name)!);
      if (change) changes.push(change);
    }
    const baseWeights = new Map(changes.map(({name, parameter}) => [name, parameter]));
    const fill = () => {
      assertPlaces(adapters, file, base);
      fillAdapter(adapters, adapterName, file, bytes, base);
    };
    assertIdle(model, 'loadAdapter'); // checked again, because a training may have begun while the files were read
    adapters.add({...options, adapterName, layerClass}, fill, {config, baseWeights});
    if (initialized) {
      try {
        const first = firstFile && (await firstMatrices(firstFile, adapters, adapterName));
        await changeBaseAs(model, adapters, adapterName, initialized, {signal}, first);
      } catch (error) {
        adapters.remove(adapterName);
        throw error;
      }
    }
    for (const {parameter, value} of changes) parameter.write(value);
    adapters.setTrainable(adapterName, trainable);
    const biases = biasParameters(adapters, adapterName);
    warnOfChanges(
      changes.filter(({name}) => !biases.has(name)),
      file,
    );
  } finally {
    for (const {value} of changes) value.dispose();
    file.close();
    firstFile?.close();
  }
}

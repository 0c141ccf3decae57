import type * as tf from '@tensorflow/tfjs';
import type {FolderSource, FolderTarget} from '../../quant/folders/openFolder.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import {type LoadAdapterOptions, loadAdapter as loadFiles} from '../peft/loadAdapter.ts';
import {saveAdapter as saveFiles} from '../peft/saveAdapter.ts';
import {DenseModules} from './denseModules.ts';

export interface SaveAdapterOptions {
  /** Name of the adapter to save. Default: the active one. */
  adapterName?: string;
  /** Base model that `adapter_config.json` names. Default: an empty string. */
  baseModelNameOrPath?: string;
}
const SAVE_ADAPTER_OPTIONS = {
  adapterName: true,
  baseModelNameOrPath: true,
} satisfies OptionNames<SaveAdapterOptions>;

/**
 * Writes an adapter of a model from {@link applyLoRA} as a PEFT folder, with `adapter_config.json` and
 * `adapter_model.safetensors`. PEFT loads it into a PyTorch model whose linear modules have the names of the layers.
 *
 * @param folder a path, or a `Map` that receives the files as `Blob`s, for environments without a disk
 * @throws TfjsLoraError `UNKNOWN_ADAPTER`
 */
export async function saveAdapter(
  model: tf.LayersModel,
  folder: FolderTarget,
  options: SaveAdapterOptions = {},
): Promise<void> {
  assertKnownOptions('saveAdapter', options, SAVE_ADAPTER_OPTIONS);
  const {adapterName, baseModelNameOrPath: nameOrPath = ''} = options;
  const {adapters} = new DenseModules('saveAdapter', model);
  await saveFiles({nameOrPath, taskType: null}, adapters, folder, adapterName);
}

/**
 * Loads a PEFT folder onto the dense layers of a model. The result shares all weights with the given model, as in
 * {@link applyLoRA}. The adapter is frozen unless `trainable`.
 *
 * @throws TfjsLoraError for a damaged folder, or a folder for another model; the given model does not change
 */
export async function loadAdapter(
  model: tf.LayersModel,
  folder: FolderSource,
  options?: LoadAdapterOptions,
): Promise<tf.LayersModel> {
  const modules = new DenseModules('loadAdapter', model);
  const files = {sharesBase: true, namedParameters: () => new Map()}; // the file may only contain the adapter's weights
  await loadFiles(files, modules.adapters, folder, options);
  return modules.rebuilt();
}

import * as tf from '@tensorflow/tfjs';
import {DEFAULT_ADAPTER} from '../../layers/loraDense.ts';
import type {Parameter} from '../../layers/parameter.ts';
import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';
import {
  type FolderSource,
  type FolderTarget,
  folderToWrite,
  openFolder,
} from '../../quant/folders/openFolder.ts';
import type {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import type {CausalLM} from '../causalLM.ts';
import {toTensor} from '../checkpoint.ts';
import {readJsonOf} from '../jsonFile.ts';
import type {AdapterSet} from './adapterSet.ts';
import {formatPeftConfig, parsePeftConfig} from './peftConfig.ts';

const CONFIG = 'adapter_config.json';
const WEIGHTS = 'adapter_model.safetensors';

/** The weights of one adapter by their key in a PEFT file. */
export function adapterParameters(model: CausalLM, adapterName: string): Map<string, Parameter> {
  const parameters = new Map<string, Parameter>();
  for (const [layerName, layer] of model.adaptedLayers()) {
    const adapter = layer.adapters.get(adapterName);
    for (const [key, parameter] of adapter?.parameters ?? []) {
      parameters.set(`base_model.model.${layerName}.${key}`, parameter);
    }
  }
  return parameters;
}

/** Writes an adapter as PEFT does, so that PEFT, vLLM and llama.cpp load it. */
export async function saveAdapter(
  model: CausalLM,
  target: FolderTarget,
  adapterName = soleAdapter(model),
): Promise<void> {
  const options = model.adapterOptions(adapterName);
  const layerNames = [...model.adaptedLayers()]
    .filter(([, layer]) => layer.adapters.has(adapterName))
    .map(([name]) => name);
  const folder = folderToWrite(target);
  await folder.create();
  const tensors = [...adapterParameters(model, adapterName)].map(([name, parameter]) => ({
    name,
    dtype: 'F32' as const,
    shape: parameter.logicalShape,
    data: () => parameter.read().data() as Promise<Float32Array>,
  }));
  await folder.writeSafetensors(WEIGHTS, tensors);
  const config = formatPeftConfig(options, layerNames, model.nameOrPath);
  await folder.write(CONFIG, JSON.stringify(config, null, 2));
}

function soleAdapter(model: CausalLM): string {
  const [first, ...others] = model.activeAdapters;
  if (first !== undefined && others.length === 0) return first;
  if (model.adapterNames.includes(DEFAULT_ADAPTER)) return DEFAULT_ADAPTER;
  throw new TfjsLoraError(
    'UNKNOWN_ADAPTER',
    `saveAdapter: expected one active adapter, got ${model.activeAdapters.join(', ') || 'none'}. Name the one to save.`,
  );
}

/** Loads a PEFT folder; the model is left as it was when anything is wrong. */
export async function loadAdapter(
  model: CausalLM,
  adapters: AdapterSet,
  source: FolderSource,
  {adapterName = DEFAULT_ADAPTER, trainable = false}: {adapterName?: string; trainable?: boolean} = {},
): Promise<void> {
  const folder = openFolder(source);
  const options = parsePeftConfig(await readJsonOf(folder, CONFIG), folder.pathOf(CONFIG));
  const file = await folder.openSafetensors(WEIGHTS);
  try {
    const bytes = new Map<string, Uint8Array>();
    for (const name of file.names()) bytes.set(name, await file.load(name));
    adapters.add({...options, adapterName}, () => fill(adapterParameters(model, adapterName), file, bytes));
    for (const layer of model.adaptedLayers().values()) {
      const adapter = layer.adapters.get(adapterName);
      if (adapter) adapter.trainable = trainable;
    }
  } finally {
    file.close();
  }
}

function fill(
  parameters: Map<string, Parameter>,
  file: SafetensorsFile,
  bytes: Map<string, Uint8Array>,
): void {
  for (const name of parameters.keys()) {
    if (file.has(name)) continue;
    throw new TfjsLoraError(
      'MISSING_TENSOR',
      `adapter ${file.path}: expected tensor ${name} (adapter_config.json targets its layer), got none of that name. ` +
        `Nearest: ${nearestNames(name, file.names()).join(', ')}`,
    );
  }
  for (const name of file.names()) {
    const parameter = parameters.get(name);
    const where = `tensor ${name} (${file.path})`;
    if (!parameter) {
      throw new TfjsLoraError(
        'UNEXPECTED_TENSOR',
        `${where}: expected only tensors that adapter_config.json targets, got one it does not. ` +
          'Adapter and model, or adapter and config, do not belong together.',
      );
    }
    const info = file.info(name);
    if (!tf.util.arraysEqual([...info.shape], parameter.logicalShape)) {
      throw new TfjsLoraError(
        'SHAPE_MISMATCH',
        `${where}: expected [${parameter.logicalShape.join(', ')}], got [${info.shape.join(', ')}]. ` +
          'The adapter was made for another model, or r and rank_pattern are not the file’s.',
      );
    }
    const value = toTensor(bytes.get(name)!, info, parameter, where, true);
    parameter.write(value);
    value.dispose();
  }
}

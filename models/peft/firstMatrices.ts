import type {Parameter} from '../../layers/parameter.ts';
import {assertFinite} from '../../quant/assertFinite.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import type {Folder} from '../../quant/folders/folder.ts';
import {type FolderSource, openFolder} from '../../quant/folders/openFolder.ts';
import type {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {toFloat32} from '../../quant/safetensors/toFloat32.ts';
import type {TensorToWrite} from '../../quant/safetensors/writeSafetensors.ts';
import {ADAPTER_FILES} from './adapterFiles.ts';
import type {AdapterSet} from './adapterSet.ts';
import {assertHolds, assertShape} from './fillAdapter.ts';
import {changesBaseByData} from './initialization/changesBase.ts';
import type {FirstMatrices} from './initialization/initializeLoRA.ts';
import {missingFirstMatrices} from './initLoraWeights.ts';
import {PEFT_PREFIX} from './peftPrefix.ts';

/** Opens the file with an adapter's first matrices, if its base needs them. */
export async function firstMatricesFile(
  folder: Folder,
  method: string | undefined,
  initialAdapter: FolderSource | undefined,
): Promise<SafetensorsFile | undefined> {
  const where = folder.pathOf(ADAPTER_FILES.config);
  if (method === undefined || !changesBaseByData(method)) {
    if (initialAdapter === undefined) return undefined;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `loadAdapter initialAdapter: expected none for ${where}, whose init_lora_weights is not corda or lora_ga, got one`,
    );
  }
  if (initialAdapter !== undefined)
    return await openFolder(initialAdapter).openSafetensors(ADAPTER_FILES.weights);
  if (await folder.has(ADAPTER_FILES.firstMatrices))
    return await folder.openSafetensors(ADAPTER_FILES.firstMatrices);
  throw missingFirstMatrices(method, where);
}

/** Reads an adapter's first matrices by the names of its layers. */
export async function firstMatrices(
  file: SafetensorsFile,
  adapters: AdapterSet,
  adapterName: string,
): Promise<FirstMatrices> {
  const first = new Map<string, {a: Float32Array; b: Float32Array}>();
  for (const [layerName, layer] of adapters.lowRank()) {
    if (!layer.adapters.has(adapterName)) continue;
    const {loraA, loraB} = layer.adapter(adapterName);
    const read = async (key: string, like: Parameter): Promise<Float32Array> => {
      const name = `${PEFT_PREFIX}${layerName}.${key}`;
      assertHolds([name], file);
      assertShape(name, file, like);
      const values = toFloat32(await file.load(name), file.info(name).dtype, name);
      assertFinite(values, `tensor ${name} (${file.path})`);
      return values;
    };
    first.set(layerName, {a: await read('lora_A.weight', loraA), b: await read('lora_B.weight', loraB)});
  }
  return first;
}

/** Returns the first matrices of an adapter under the keys of its weights. */
export function firstTensors(
  initial: FirstMatrices,
  adapters: AdapterSet,
  adapterName: string,
): TensorToWrite[] {
  return [...initial].flatMap(([layerName, {a, b}]) => {
    const {loraA, loraB} = adapters.lowRank().get(layerName)!.adapter(adapterName);
    const name = `${PEFT_PREFIX}${layerName}`;
    return [
      {name: `${name}.lora_A.weight`, dtype: 'F32', shape: loraA.logicalShape, data: a},
      {name: `${name}.lora_B.weight`, dtype: 'F32', shape: loraB.logicalShape, data: b},
    ];
  });
}

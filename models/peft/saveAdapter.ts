import {CopiedLayer} from '../../layers/copiedLayer.ts';
import {LoRAAdapter} from '../../layers/loraAdapter.ts';
import type {Parameter} from '../../layers/parameter.ts';
import {TokenRowsLayer} from '../../layers/tokenRowsLayer.ts';
import type {ValueHead} from '../../layers/valueHead.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {type FolderTarget, folderToWrite} from '../../quant/folders/openFolder.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import type {TensorToWrite} from '../../quant/safetensors/writeSafetensors.ts';
import {VALUE_HEAD_FILE, valueHeadTensors} from '../valueHeadFile.ts';
import {ADAPTER_FILES} from './adapterFiles.ts';
import {adapterParameters, biasParameters, UNDER_ADAPTER} from './adapterParameters.ts';
import type {AdapterSet} from './adapterSet.ts';
import {firstTensors} from './firstMatrices.ts';
import {changesBaseByData} from './initialization/changesBase.ts';
import {convertedToLoRA} from './initialization/convertedToLoRA.ts';
import {formatPeftConfig} from './peftConfig.ts';
import {PEFT_PREFIX} from './peftPrefix.ts';

/** The part of a model that goes into an adapter's files, besides its adapters. */
interface SavedModel {
  readonly nameOrPath: string;
  /** PEFT's `task_type`. Default `CAUSAL_LM`; null for a model of a kind that PEFT does not know. */
  readonly taskType?: string | null;
  readonly valueHead?: ValueHead;
  /** Tables that were resized, by the names of their layers, which an adapter's file then has too. Default none. */
  readonly resizedTables?: ReadonlyMap<string, Parameter>;
}

export interface SaveAdapterFilesOptions {
  /**
   * Whether to write an adapter of `pissa`, `olora`, `corda` or `lora_ga` as a plain LoRA of twice the rank for the
   * unchanged base. Default false: it is written unconverted, and loading it changes the base again.
   */
  convertToLoRA?: boolean;
}
export const SAVE_ADAPTER_FILES_OPTIONS = {
  convertToLoRA: true,
} satisfies OptionNames<SaveAdapterFilesOptions>;

/**
 * Writes an adapter as PEFT does, so that PEFT, vLLM and llama.cpp load it, in float32. A loaded adapter keeps its
 * config. The model's value head, if there is one, is written as LLaMA-Factory does. An adapter of `corda` or `lora_ga`
 * gets a third file with its first matrices, which the base needs.
 *
 * @param adapterName Default: the only active adapter, or `default`
 * @throws TfjsLoraError `UNKNOWN_ADAPTER`; `UNSUPPORTED` for weights that are not LoRA's under LoRA's `peft_type`
 */
export async function saveAdapter(
  {nameOrPath, taskType, valueHead, resizedTables}: SavedModel,
  adapters: AdapterSet,
  target: FolderTarget,
  adapterName = adapters.sole('saveAdapter'),
  given: SaveAdapterFilesOptions = {},
): Promise<void> {
  assertKnownOptions('saveAdapter', given, SAVE_ADAPTER_FILES_OPTIONS);
  const options = adapters.options(adapterName);
  const loaded = adapters.loadedFrom(adapterName);
  const layerNames = [...adapters.layers()]
    .filter(
      ([, layer]) =>
        !(layer instanceof CopiedLayer || layer instanceof TokenRowsLayer) && layer.adapters.has(adapterName),
    )
    .map(([name]) => name);
  assertReadable(adapters, adapterName);
  const folder = folderToWrite(target);
  await folder.create();
  const converted = given.convertToLoRA ? convertedToLoRA(adapters, adapterName) : undefined;
  const parameters = new Map([
    ...[...adapterParameters(adapters, adapterName)].filter(
      ([name]) => !converted || !name.includes('.lora_'),
    ),
    ...tablesToWrite(adapters, adapterName, resizedTables),
    ...(loaded?.baseWeights ?? []),
    ...biasParameters(adapters, adapterName),
  ]);
  const tensors: TensorToWrite[] = [...parameters].map(([name, parameter]) => ({
    name,
    dtype: 'F32',
    shape: parameter.logicalShape,
    data: () =>
      parameter.storage === 'float32'
        ? (parameter.read().data() as Promise<Float32Array>)
        : parameter.toBytes('float32'), // a weight of the model that came with the adapter
  }));
  for (const [layerName, {shapes, a, b}] of converted?.layers ?? []) {
    const name = `${PEFT_PREFIX}${layerName}`;
    tensors.push({name: `${name}.lora_A.weight`, dtype: 'F32', shape: shapes.a, data: a});
    tensors.push({name: `${name}.lora_B.weight`, dtype: 'F32', shape: shapes.b, data: b});
  }
  const {method, config: ofMethod, initial} = adapters.initialized(adapterName) ?? {};
  const own = {
    ...(loaded?.config ?? formatPeftConfig(options, layerNames, nameOrPath, taskType)),
    ...ofMethod,
  };
  const config = converted ? converted.config(own) : own;
  await folder.writeTogether(ADAPTER_FILES.config, async (draft) => {
    await draft.writeSafetensors(ADAPTER_FILES.weights, tensors);
    if (initial && !converted && changesBaseByData(method!))
      await draft.writeSafetensors(ADAPTER_FILES.firstMatrices, firstTensors(initial, adapters, adapterName));
    if (valueHead) await draft.writeSafetensors(VALUE_HEAD_FILE, valueHeadTensors(valueHead));
    await draft.write(ADAPTER_FILES.config, JSON.stringify(config, null, 2));
  });
}

/** Returns the resized tables by their keys in an adapter's file, except those that the adapter has whole. */
function tablesToWrite(
  adapters: AdapterSet,
  adapterName: string,
  tables: ReadonlyMap<string, Parameter> = new Map(),
): [string, Parameter][] {
  const layers = adapters.layers();
  return [...tables].flatMap(([name, table]): [string, Parameter][] => {
    const layer = layers.get(name);
    if (layer instanceof CopiedLayer && layer.adapters.has(adapterName)) return [];
    const place =
      layer instanceof TokenRowsLayer ? `.token_adapter${UNDER_ADAPTER}` : layer ? UNDER_ADAPTER : '';
    return [[`${PEFT_PREFIX}${name}${place}.weight`, table]];
  });
}

/** Names of the weights in PEFT's LoRA. */
const LORA_WEIGHT = /^lora_(A\.weight|B\.weight|B\.bias|magnitude_vector)$/;

/** Refuses to write weights that PEFT would look for in vain, or leave out, under LoRA's `peft_type`. */
function assertReadable(adapters: AdapterSet, adapterName: string): void {
  for (const [layerName, layer] of adapters.lowRank()) {
    if (layer.adapterClass.peftType !== LoRAAdapter.peftType) continue;
    const keys = [...(layer.adapters.get(adapterName)?.parameters.keys() ?? [])];
    const foreign = keys.find((key) => !LORA_WEIGHT.test(key));
    if (foreign === undefined) continue;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `saveAdapter ${adapterName} of ${layerName}: expected the weights of LoRA for peft_type "LORA", got ${foreign}. ` +
        `Give ${layer.adapterClass.name} a static peftType of its own, and registerAdapter(${layer.constructor.name}).`,
    );
  }
}

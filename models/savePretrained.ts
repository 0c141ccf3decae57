import type * as tf from '@tensorflow/tfjs';
import type {AdaptedLayer} from '../layers/adaptedLayer.ts';
import type {Parameter} from '../layers/parameter.ts';
import {QuantizedParameter} from '../layers/quantizedParameter.ts';
import type {ValueHead} from '../layers/valueHead.ts';
import {assertStorageDtype} from '../quant/assertStorageDtype.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import type {WritableFolder} from '../quant/folders/folder.ts';
import {type FolderTarget, folderToWrite} from '../quant/folders/openFolder.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import type {QuantizerFiles} from '../quant/quantizer.ts';
import {getQuantizer} from '../quant/quantizerRegistry.ts';
import {FILE_DTYPES} from '../quant/safetensors/floatDtypes.ts';
import type {TensorToWrite} from '../quant/safetensors/writeSafetensors.ts';
import {type GenerationConfig, writeGenerationConfig} from './generationConfig.ts';
import {letSignalsThrough} from './letSignalsThrough.ts';
import {formatQuantizationConfig} from './quantizationConfig.ts';
import type {LayeredModel} from './replaceLayer.ts';
import type {Tokenizer} from './tokenizer.ts';
import {TOKENIZER_FILES} from './tokenizerFiles.ts';
import {isOfValueHead, VALUE_HEAD_FILE, valueHeadTensors} from './valueHeadFile.ts';

/** The part of a model that saving needs. */
export interface SavableModel extends LayeredModel {
  readonly storage: StorageDtype;
  readonly generationConfig: GenerationConfig;
  readonly tokenizer?: Tokenizer;
  readonly valueHead?: ValueHead;
  namedParameters(): Map<string, Parameter>;
  layersWithAdapters(): Map<string, AdaptedLayer>;
  /** Returns the contents of `config.json`. */
  formatConfig(dtype: StorageDtype): Record<string, unknown>;
}

/** Number of tensors that are written or read, and of all tensors. */
export interface TensorProgress {
  tensor: string;
  done: number;
  total: number;
}

export interface SaveOptions {
  /** Dtype of the weights in the file. Default: the model's own. */
  dtype?: StorageDtype;
  /** Maximum bytes of tensors in a file. Default 5 GB (5e9). */
  maxShardBytes?: number;
  /** Whether to write quantized layers in `dtype` too. Default false: in bitsandbytes' format, as transformers does, or their quantizer's. */
  dequantize?: boolean;
  /** Called after each tensor. */
  onProgress?: (progress: TensorProgress) => void;
  /** Stops before the next tensor, with the signal's reason as the error; files of an earlier save do not change. */
  signal?: AbortSignal;
}
const SAVE_OPTIONS = {
  dtype: true,
  maxShardBytes: true,
  dequantize: true,
  onProgress: true,
  signal: true,
} satisfies OptionNames<SaveOptions>;

/** Writes the model's folder; see `CausalLM.save`. */
export async function savePretrained(
  model: SavableModel,
  target: FolderTarget,
  options: SaveOptions,
): Promise<tf.io.SaveResult> {
  assertKnownOptions('save', options, SAVE_OPTIONS);
  assertStorageDtype('save dtype', options.dtype);
  options.signal?.throwIfAborted();
  const folder = folderToWrite(target);
  const {dtype = model.storage, maxShardBytes = 5e9} = options;
  const weights = mergedWeights(model, 'save', folder.path);
  await folder.create();
  const isQuantized = !options.dequantize;
  const quantization = isQuantized ? formatQuantizationConfig(model) : undefined;
  const tensors: TensorToWrite[] = [];
  for (const [name, parameter] of weights) {
    if (isQuantized && parameter instanceof QuantizedParameter) {
      await letSignalsThrough(options.signal);
      tensors.push(...(await quantizedTensors(name, parameter)));
    } else {
      const data = () => parameter.toBytes(dtype);
      tensors.push({name, dtype: FILE_DTYPES[dtype], shape: parameter.logicalShape, data});
    }
  }
  const {quantization_config, ...config} = model.formatConfig(dtype);
  if (config.tie_word_embeddings && model.namedParameters().has('lm_head.weight'))
    config.tie_word_embeddings = false;
  const json = quantization ? {...config, quantization_config: quantization} : config;
  const fill = async (draft: WritableFolder) => {
    await draft.writeShards(watched(tensors, options), {maxShardBytes});
    if (model.valueHead) await draft.writeSafetensors(VALUE_HEAD_FILE, valueHeadTensors(model.valueHead));
    await draft.write('config.json', `${withFloats(JSON.stringify(json, null, 2))}\n`);
    if (Object.keys(model.generationConfig).length > 0)
      await writeGenerationConfig(draft, model.generationConfig);
    await model.tokenizer?.save(draft);
  };
  await folder.writeTogether('config.json', fill, staleAfterSave(model));
  return {modelArtifactsInfo: {dateSaved: new Date(), modelTopologyType: 'JSON'}};
}

/**
 * Returns the weights to save: the model's own, with its adapters merged into them, without the value head.
 *
 * @param call the call that saves, and `path` where to, for messages
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unmerged adapter, which would be lost
 */
export function mergedWeights(
  model: Pick<SavableModel, 'layersWithAdapters' | 'namedParameters'>,
  call: string,
  path: string,
): [string, Parameter][] {
  const layers = model.layersWithAdapters();
  const unmerged = [...layers].find(([, layer]) => !layer.isMerged && layer.activeAdapters.length > 0);
  if (unmerged) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${call} ${path}: expected merged adapters, got an unmerged one on ${unmerged[0]}. ` +
        'Call mergeLoRA() first, or saveAdapter() to write the adapter alone.',
    );
  }
  const ofAdapters = new Set([...layers.values()].flatMap((layer) => layer.adapterParameters));
  return [...model.namedParameters()].filter(
    ([name, parameter]) => !ofAdapters.has(parameter) && !isOfValueHead(name),
  );
}

/** Writes whole numbers as floats where transformers accepts nothing else, and JavaScript knows no difference. */
const withFloats = (json: string): string =>
  json.replace(/^( *"(?:\w+_softcapping|initializer_range|rms_norm_eps)": \d+)(,?)$/gm, '$1.0$2');

/** Returns tensors that report when they are written, and stop at an aborted signal. */
function watched(tensors: TensorToWrite[], {onProgress, signal}: SaveOptions): TensorToWrite[] {
  let done = 0;
  return tensors.map((tensor) => ({
    ...tensor,
    data: async () => {
      await letSignalsThrough(signal);
      const bytes = await (typeof tensor.data === 'function' ? tensor.data() : tensor.data);
      onProgress?.({tensor: tensor.name, done: ++done, total: tensors.length});
      return bytes;
    },
  }));
}

/** Returns whether to remove a file of an earlier save that this model does not write: weights, settings, tokenizer. */
export function staleAfterSave({tokenizer}: Pick<SavableModel, 'tokenizer'>): (name: string) => boolean {
  const ofWeights = /^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/;
  return (name) =>
    ofWeights.test(name) ||
    name === 'generation_config.json' ||
    name === VALUE_HEAD_FILE ||
    (tokenizer !== undefined && TOKENIZER_FILES.includes(name));
}

/** Makes a quantized weight's tensors for a file. They are read as they are written, one weight at a time. */
async function quantizedTensors(name: string, parameter: QuantizedParameter): Promise<TensorToWrite[]> {
  const {toTensors} = getQuantizer(parameter.quantType).files as QuantizerFiles; // or its config was refused
  const read = async () => toTensors(name, await parameter.readMatrix(), parameter.quantization);
  const tensors = await read();
  return tensors.map(({name, dtype, shape}, i) => ({
    name,
    dtype,
    shape,
    data: async () => (await read())[i].data as ArrayBufferView,
  }));
}

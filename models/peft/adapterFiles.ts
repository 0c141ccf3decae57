import * as tf from '@tensorflow/tfjs';
import {DEFAULT_ADAPTER} from '../../layers/adapter.ts';
import {CopiedLayer} from '../../layers/copiedLayer.ts';
import {LoRAAdapter} from '../../layers/loraAdapter.ts';
import {LoRADense, type LoRADenseClass} from '../../layers/loraDense.ts';
import type {ModuleLayer} from '../../layers/moduleLayer.ts';
import type {Parameter} from '../../layers/parameter.ts';
import {QuantizedParameter} from '../../layers/quantizedParameter.ts';
import {TokenRowsLayer} from '../../layers/tokenRowsLayer.ts';
import type {ValueHead} from '../../layers/valueHead.ts';
import {assertFinite} from '../../quant/assertFinite.ts';
import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';
import type {Folder} from '../../quant/folders/folder.ts';
import {
  type FolderSource,
  type FolderTarget,
  folderToWrite,
  openFolder,
} from '../../quant/folders/openFolder.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import type {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {toFloat32} from '../../quant/safetensors/toFloat32.ts';
import type {TensorToWrite} from '../../quant/safetensors/writeSafetensors.ts';
import {warn} from '../../quant/warn.ts';
import {assertIdle, type BusyModel} from '../assertIdle.ts';
import {readJsonOf} from '../jsonFile.ts';
import {letSignalsThrough} from '../letSignalsThrough.ts';
import type {TensorProgress} from '../savePretrained.ts';
import {VALUE_HEAD_FILE, valueHeadTensors} from '../valueHeadFile.ts';
import {layerClassOf} from './adapterRegistry.ts';
import type {AdapterSet} from './adapterSet.ts';
import {assertPatternsEnd} from './assertPatternsEnd.ts';
import {changesBaseByData} from './initialization/changesBase.ts';
import {convertedToLoRA} from './initialization/convertedToLoRA.ts';
import {changeBaseAs, type FirstMatrices} from './initialization/initializeLoRA.ts';
import {baseChangeOf, missingFirstMatrices} from './initLoraWeights.ts';
import type {LoRAOptions} from './loraOptions.ts';
import {formatPeftConfig, parsePeftConfig} from './peftConfig.ts';
import {PEFT_PREFIX} from './peftPrefix.ts';

const CONFIG = 'adapter_config.json';
const WEIGHTS = 'adapter_model.safetensors';
/** The matrices that an adapter began with, of a kind that no config alone describes. PEFT ignores the file. */
const FIRST_MATRICES = 'adapter_initial.safetensors';
const PICKLED_WEIGHTS = 'adapter_model.bin';
/** PEFT's suffix of an adapted layer's name, for the layer's own weight. */
const UNDER_ADAPTER = '.base_layer';
/** The same after a layer's name, with trained tokens or without. */
const PLACE_OF_BASE = /(\.token_adapter)?\.base_layer/;

/** The part of a model that an adapter's files need, besides its adapters. */
export interface AdapterFilesModel extends BusyModel {
  readonly nameOrPath: string;
  /** PEFT's `task_type`. Default `CAUSAL_LM`; null for a model of a kind that PEFT does not know. */
  readonly taskType?: string | null;
  readonly valueHead?: ValueHead;
  /** Tables that were resized, by the names of their layers, which an adapter's file then has too. Default none. */
  readonly resizedTables?: ReadonlyMap<string, Parameter>;
  /** Whether another model has the same base weights, which must then not change. Default false. */
  readonly sharesBase?: boolean;
  namedParameters(): Map<string, Parameter>;
}

/** Returns the weights of one adapter by their key in a PEFT file. */
function adapterParameters(adapters: AdapterSet, adapterName: string): Map<string, Parameter> {
  const parameters = new Map<string, Parameter>();
  for (const [layerName, layer] of adapters.layers()) {
    const adapter = layer.adapters.get(adapterName);
    for (const [key, parameter] of adapter?.parameters ?? []) {
      parameters.set(`${PEFT_PREFIX}${layerName}.${key}`, parameter);
    }
  }
  return parameters;
}

export interface SaveAdapterFilesOptions {
  /**
   * Whether to write an adapter of `pissa`, `olora`, `corda` or `lora_ga` as a plain LoRA of twice the rank, which belongs
   * to the unchanged base. Default false: it is written as it is, and loading it changes the base again.
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
  {
    nameOrPath,
    taskType,
    valueHead,
    resizedTables,
  }: Pick<AdapterFilesModel, 'nameOrPath' | 'taskType' | 'valueHead' | 'resizedTables'>,
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
    ...adapters.trainedBiases(adapterName),
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
  const own = loaded?.config ?? {
    ...formatPeftConfig(options, layerNames, nameOrPath, taskType),
    ...(method !== undefined && {init_lora_weights: method, ...ofMethod}),
  };
  const config = converted ? converted.config(own) : own;
  await folder.writeTogether(CONFIG, async (draft) => {
    await draft.writeSafetensors(WEIGHTS, tensors);
    if (initial && !converted && changesBaseByData(method!))
      await draft.writeSafetensors(FIRST_MATRICES, firstTensors(initial, adapters, adapterName));
    if (valueHead) await draft.writeSafetensors(VALUE_HEAD_FILE, valueHeadTensors(valueHead));
    await draft.write(CONFIG, JSON.stringify(config, null, 2));
  });
}

/** Returns the first matrices of an adapter under the keys of its weights. */
function firstTensors(initial: FirstMatrices, adapters: AdapterSet, adapterName: string): TensorToWrite[] {
  return [...initial].flatMap(([layerName, {a, b}]) => {
    const {loraA, loraB} = adapters.lowRank().get(layerName)!.adapter(adapterName);
    const name = `${PEFT_PREFIX}${layerName}`;
    return [
      {name: `${name}.lora_A.weight`, dtype: 'F32', shape: loraA.logicalShape, data: a},
      {name: `${name}.lora_B.weight`, dtype: 'F32', shape: loraB.logicalShape, data: b},
    ];
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

export interface LoadAdapterOptions {
  /** Name of the adapter. Default `default`. */
  adapterName?: string;
  /** Whether to continue training it. Default false. */
  trainable?: boolean;
  /**
   * The folder of the adapter as it was before training, for one of `corda` or `lora_ga` that PEFT trained: PEFT's
   * `path_initial_model_for_weight_conversion`. Default: the matrices that `saveAdapter` wrote beside the adapter.
   */
  initialAdapter?: FolderSource;
  /** A subclass of `LoRADense` for the adapter. Default: the one that is registered for its `peft_type`. */
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
  model: AdapterFilesModel,
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
    const base = baseParameters(
      new Map([...adapters.tiedWeights(), ...model.namedParameters()]),
      file,
      adapters.savedModules(options, true),
    );
    for (const [name, parameter] of base) {
      const change = await baseChange(name, parameter, file, bytes.get(name)!);
      if (change) changes.push(change);
    }
    const baseWeights = new Map(changes.map(({name, parameter}) => [name, parameter]));
    const write = () => {
      assertPlaces(adapters, file, base);
      assertHolds(adapters.trainedBiases(adapterName).keys(), file);
      const isRepeated = (name: string) => adapters.isRepeated(name, adapterName);
      fill(adapterParameters(adapters, adapterName), file, bytes, base, isRepeated);
    };
    assertIdle(model, 'loadAdapter'); // checked again, because a training may have begun while the files were read
    adapters.add({...options, adapterName, layerClass}, write, {config, baseWeights});
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
    const biases = adapters.trainedBiases(adapterName);
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

/** Opens the file with an adapter's first matrices, if its base needs them. */
async function firstMatricesFile(
  folder: Folder,
  method: string | undefined,
  initialAdapter: FolderSource | undefined,
): Promise<SafetensorsFile | undefined> {
  const where = folder.pathOf(CONFIG);
  if (method === undefined || !changesBaseByData(method)) {
    if (initialAdapter === undefined) return undefined;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `loadAdapter initialAdapter: expected none for ${where}, whose init_lora_weights is not corda or lora_ga, got one`,
    );
  }
  if (initialAdapter !== undefined) return await openFolder(initialAdapter).openSafetensors(WEIGHTS);
  if (await folder.has(FIRST_MATRICES)) return await folder.openSafetensors(FIRST_MATRICES);
  throw missingFirstMatrices(method, where);
}

/** Reads an adapter's first matrices by the names of its layers. */
async function firstMatrices(
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

/** What an adapter's config says. */
interface AdapterConfig {
  config: Record<string, unknown>;
  options: LoRAOptions;
  /** Undefined for LoRA, whose adapters fit any class of LoRA that a layer has already. */
  layerClass?: LoRADenseClass;
  /** How its initialization changed the base. */
  initialized: ReturnType<typeof baseChangeOf>;
  /** The config's path, for messages. */
  where: string;
}

/**
 * Reads the config of a PEFT folder.
 *
 * @param wanted layers for the adapter. Default: those that are registered for its `peft_type`
 */
export async function readAdapterConfig(folder: Folder, wanted?: LoRADenseClass): Promise<AdapterConfig> {
  const config = await readJsonOf(folder, CONFIG);
  const where = folder.pathOf(CONFIG);
  const byType = layerClassOf(config.peft_type, where);
  const layerClass = wanted ?? (byType === LoRADense ? undefined : byType);
  const options = parsePeftConfig(config, where, layerClass);
  assertPatternsEnd(options, where);
  const initialized = layerClass ? undefined : baseChangeOf(config, where);
  return {config, options, layerClass, initialized, where};
}

/** Opens the weights of a PEFT folder; the caller closes them. */
export async function openWeights(folder: Folder): Promise<SafetensorsFile> {
  await assertNotPickled(folder);
  return folder.openSafetensors(WEIGHTS);
}

/** Reads all tensors of a file. */
export async function readTensors(
  file: SafetensorsFile,
  {onProgress, signal}: Pick<LoadAdapterOptions, 'onProgress' | 'signal'>,
): Promise<Map<string, Uint8Array>> {
  const bytes = new Map<string, Uint8Array>();
  const names = file.names();
  for (const name of names) {
    await letSignalsThrough(signal);
    bytes.set(name, await file.load(name));
    onProgress?.({tensor: name, done: bytes.size, total: names.length});
  }
  return bytes;
}

/** @throws TfjsLoraError `UNSUPPORTED` for a folder with weights only in PyTorch's older format */
async function assertNotPickled(folder: Folder): Promise<void> {
  if ((await folder.has(WEIGHTS)) || !(await folder.has(PICKLED_WEIGHTS))) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${folder.pathOf(PICKLED_WEIGHTS)}: expected ${WEIGHTS}, got PyTorch's pickled format, which can run code and is ` +
      'not read here. Convert it, in the folder: python -c "import torch; from safetensors.torch import save_file; ' +
      `w = torch.load('${PICKLED_WEIGHTS}', map_location='cpu', weights_only=True); ` +
      `save_file({k: v.contiguous() for k, v in w.items()}, '${WEIGHTS}', metadata={'format': 'pt'})"`,
  );
}

/** A weight of the model that an adapter's file changes. */
interface BaseChange {
  name: string;
  parameter: Parameter;
  value: tf.Tensor;
}

/**
 * Returns the model's own weights in an adapter's file, by their key there: `lm_head.base_layer.weight` when the head
 * is adapted, or the embedding and the head when the vocabulary was resized.
 *
 * @param copied layers that the adapter copies whole, whose weights are its own
 */
function baseParameters(
  all: Map<string, Parameter>,
  file: SafetensorsFile,
  copied: readonly ModuleLayer[],
): Map<string, Parameter> {
  const found = new Map<string, Parameter>();
  for (const name of file.names()) {
    if (!name.startsWith(PEFT_PREFIX)) continue;
    const inModel = name.slice(PEFT_PREFIX.length).replace(PLACE_OF_BASE, '');
    const parameter = all.get(inModel);
    if (parameter && !copied.some((layer) => inModel.startsWith(`${layer.name}.`)))
      found.set(name, parameter);
  }
  return found;
}

/** Checks that a file names the model's own weights as PEFT does, which depends on whether their layer is adapted. */
function assertPlaces(adapters: AdapterSet, file: SafetensorsFile, base: Map<string, Parameter>): void {
  const adapted = adapters.layers();
  for (const name of base.keys()) {
    const inModel = name.slice(PEFT_PREFIX.length).replace(PLACE_OF_BASE, '');
    const isAdapted = adapted.has(inModel.slice(0, inModel.lastIndexOf('.')));
    if (isAdapted !== name.includes(UNDER_ADAPTER)) throw unexpectedTensor(name, file);
  }
}

/** Returns the value that a file has for a weight of the model, or undefined when it equals the model's. */
async function baseChange(
  name: string,
  parameter: Parameter,
  file: SafetensorsFile,
  bytes: Uint8Array,
): Promise<BaseChange | undefined> {
  const where = `tensor ${name} (${file.path})`;
  if (parameter instanceof QuantizedParameter) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where}: expected only the adapter's weights, got one of the model, which is quantized here. ` +
        'Load the model unquantized, or remove the tensor from the file.',
    );
  }
  const info = file.info(name);
  if (!tf.util.arraysEqual([...info.shape], parameter.logicalShape)) {
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `${where}: expected the model's [${parameter.logicalShape.join(', ')}], got [${info.shape.join(', ')}]. ` +
        'The vocabulary was resized in training: load the model that was resized, or call resizeVocab first.',
    );
  }
  const value = parameter.decode(bytes, info.dtype, {where});
  if (parameter.isAllocated) {
    const [given, held] = [await value.data(), await parameter.read().data()];
    if (given.some((element, i) => element !== held[i])) return {name, parameter, value};
  }
  value.dispose();
  return undefined;
}

function warnOfChanges(changes: BaseChange[], file: SafetensorsFile): void {
  if (changes.length === 0) return;
  const names = changes.map(({parameter}) => parameter.originalName).join(', ');
  warn(
    `adapter ${file.path}: its own ${names} differs from the model's and replaces it, as in PEFT. It stays when the ` +
      'adapter is deactivated or deleted: to restore the old one, load the model again.',
  );
}

/** @throws TfjsLoraError `MISSING_TENSOR` */
function assertHolds(names: Iterable<string>, file: SafetensorsFile): void {
  for (const name of names) {
    if (file.has(name)) continue;
    throw new TfjsLoraError(
      'MISSING_TENSOR',
      `adapter ${file.path}: expected tensor ${name} (adapter_config.json targets its layer), got none of that name. ` +
        `Nearest: ${nearestNames(name, file.names()).join(', ')}`,
    );
  }
}

/** Fills an adapter's weights from the file. `base` are the tensors of the file that are the model's own. */
function fill(
  parameters: Map<string, Parameter>,
  file: SafetensorsFile,
  bytes: Map<string, Uint8Array>,
  base: Map<string, Parameter>,
  isRepeated: (name: string) => boolean,
): void {
  assertHolds(parameters.keys(), file);
  for (const name of file.names()) {
    if (base.has(name) || isRepeated(name)) continue;
    const parameter = parameters.get(name);
    const where = `tensor ${name} (${file.path})`;
    if (!parameter) throw unexpectedTensor(name, file);
    assertShape(name, file, parameter);
    parameter.load(bytes.get(name)!, file.info(name).dtype, {where});
  }
}

/** @throws TfjsLoraError `SHAPE_MISMATCH` */
function assertShape(name: string, file: SafetensorsFile, {logicalShape}: Parameter): void {
  const {shape} = file.info(name);
  if (tf.util.arraysEqual([...shape], logicalShape)) return;
  throw new TfjsLoraError(
    'SHAPE_MISMATCH',
    `tensor ${name} (${file.path}): expected [${logicalShape.join(', ')}], got [${shape.join(', ')}]. ` +
      'The adapter was made for another model, or r and rank_pattern do not match the file.',
  );
}

function unexpectedTensor(name: string, file: SafetensorsFile): TfjsLoraError {
  return new TfjsLoraError(
    'UNEXPECTED_TENSOR',
    `tensor ${name} (${file.path}): expected only tensors that adapter_config.json targets, got one it does not. ` +
      'Adapter and model, or adapter and config, do not belong together.',
  );
}

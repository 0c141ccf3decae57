import * as tf from '@tensorflow/tfjs';
import {asynchronousBackends} from '../layers/ops/dispatch.ts';
import type {Parameter} from '../layers/parameter.ts';
import type {QuantizationType} from '../layers/quantizationArgs.ts';
import {QuantizedParameter} from '../layers/quantizedParameter.ts';
import {bitsandbytesKeys, bitsandbytesType, fromTensors, toTensors} from '../quant/bitsandbytesState.ts';
import {nearestNames, TfjsLoraError} from '../quant/errors.ts';
import {
  float32ToBfloat16,
  float32ToFloat16,
  packFloat32Rows,
  packRows,
  type StorageDtype,
  unpackRowBits,
  unpackRows,
} from '../quant/float16.ts';
import type {WritableFolder} from '../quant/folders/folder.ts';
import {type FolderTarget, folderToWrite} from '../quant/folders/openFolder.ts';
import type {Int8Tensor} from '../quant/int8.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import type {QuantizedTensor} from '../quant/quantizedTensor.ts';
import type {TensorInfo} from '../quant/safetensors/safetensorsHeader.ts';
import {toFloat32} from '../quant/safetensors/toFloat32.ts';
import type {TensorToWrite} from '../quant/safetensors/writeSafetensors.ts';
import {warn} from '../quant/warn.ts';
import type {CausalLM} from './causalLM.ts';
import {writeGenerationConfig} from './generationConfig.ts';
import type {ModelCheckpoint} from './modelCheckpoint.ts';
import type {QuantizationOptions} from './quantization.ts';
import {formatQuantizationConfig} from './quantizationConfig.ts';
import {TOKENIZER_FILES} from './tokenizer.ts';

export interface LoadOptions {
  /** How the matrices are stored. Default: as in the file, so a bfloat16 checkpoint stays 16-bit. */
  dtype?: StorageDtype;
  /** Quantize the linear layers while they load: QLoRA. A type alone, such as `'nf4'`, is short for `{type}`. Default: as the folder's `quantization_config` says, if at all. */
  quantization?: QuantizationOptions | QuantizationType;
  /** False: declare the weights without reading them, to count or to plan; using them throws. Default true. */
  allocate?: boolean;
  /** Refuse weights with NaN or infinity. Default true; costs one pass over the bytes. */
  checkFinite?: boolean;
  /** Called after each tensor. */
  onProgress?: (progress: {tensor: string; loaded: number; total: number}) => void;
}
/** What `fromPretrained` takes. */
export const LOAD_OPTIONS = {
  dtype: true,
  quantization: true,
  allocate: true,
  checkFinite: true,
  onProgress: true,
} satisfies OptionNames<LoadOptions>;

export interface SaveOptions {
  /** Type of the file's weights. Default the model's own. */
  dtype?: StorageDtype;
  /** Default 5 GB. */
  maxShardBytes?: number;
  /** Write quantized layers in `dtype` too. Default false: in bitsandbytes' format, as transformers does. */
  dequantize?: boolean;
}
const SAVE_OPTIONS = {
  dtype: true,
  maxShardBytes: true,
  dequantize: true,
} satisfies OptionNames<SaveOptions>;

const STORAGE = {F32: 'float32', BF16: 'bfloat16', F16: 'float16'} as const;
const FILE_DTYPE = {float32: 'F32', bfloat16: 'BF16', float16: 'F16'} as const;

/** The type a checkpoint's matrices are stored in. */
export function storageOf(checkpoint: ModelCheckpoint): StorageDtype {
  for (const name of checkpoint.names()) {
    const {dtype, shape} = checkpoint.info(name);
    if (bitsandbytesType(name, checkpoint)) continue; // its dtype is only what the codes lie in
    if (shape.length === 2 && dtype in STORAGE) return STORAGE[dtype as keyof typeof STORAGE];
  }
  return 'float32';
}

/** A file has half a byte for a weight at least, of 4 bits; a few more weights may be missing and are reported by name. */
const [WEIGHTS_PER_BYTE, UNCHECKED_WEIGHTS] = [2, 1e6];

/**
 * Refuses a config of a model far larger than its files: building it would fill the memory before a tensor is missed.
 *
 * @param parameters weights of the model that `where`, the config, describes
 */
export function assertFilesHold(parameters: number, checkpoint: ModelCheckpoint, where: string): void {
  const bytes = checkpoint.names().reduce((sum, name) => {
    const {begin, end} = checkpoint.info(name);
    return sum + end - begin;
  }, 0);
  if (parameters <= bytes * WEIGHTS_PER_BYTE + UNCHECKED_WEIGHTS) return;
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `${where}: expected the sizes of a model that fits into its files, got one of ${parameters} weights for files of ` +
      `${bytes} bytes. Config and weights are of different models.`,
  );
}

/**
 * Checks that a checkpoint has the tensors that a model declares, and no others, without reading any.
 *
 * @returns the names of those to read, and of those of another module, in the order of the file's bytes
 * @throws TfjsLoraError `MISSING_TENSOR`, `UNEXPECTED_TENSOR`, `SHAPE_MISMATCH`
 */
export function assertTensors(
  model: CausalLM,
  checkpoint: ModelCheckpoint,
): {names: string[]; others: string[]} {
  const parameters = model.namedParameters();
  const quantizedTensors = new Set(companionsOf(parameters, checkpoint));
  const others = checkpoint.names().filter(isOfAnotherModule);
  const names = checkpoint
    .names()
    .filter(
      (name) => !others.includes(name) && !isRedundant(name, parameters) && !quantizedTensors.has(name),
    );
  const missing = [...parameters.keys()].filter((name) => !checkpoint.has(name));
  if (missing.length > 0) {
    throw new TfjsLoraError(
      'MISSING_TENSOR',
      `checkpoint ${checkpoint.folder}: expected tensor ${missing[0]}` +
        `${missing.length > 1 ? ` and ${missing.length - 1} more` : ''}, got none of that name. ` +
        `Nearest: ${nearestNames(missing[0], checkpoint.names()).join(', ')}`,
    );
  }
  for (const name of names) {
    const parameter = parameters.get(name);
    const where = `tensor ${name} (${checkpoint.fileOf(name).path})`;
    if (!parameter) {
      throw new TfjsLoraError(
        'UNEXPECTED_TENSOR',
        `${where}: expected only tensors of the model that config.json describes, got one it has no place for`,
      );
    }
    if (!(parameter instanceof QuantizedParameter)) assertMatches(where, checkpoint.info(name), parameter);
  }
  return {names, others};
}

/** Fills a model's declared weights from a checkpoint, tensor by tensor, in the order of the file's bytes. */
export async function loadWeights(
  model: CausalLM,
  checkpoint: ModelCheckpoint,
  {checkFinite = true, onProgress}: LoadOptions = {},
): Promise<void> {
  const parameters = model.namedParameters();
  const {names, others} = assertTensors(model, checkpoint);
  if (others.length > 0) {
    const shown = others.slice(0, 4).join(', ') + (others.length > 4 ? ` and ${others.length - 4} more` : '');
    warn(`checkpoint ${checkpoint.folder}: left out ${shown}, which is no part of a causal language model`);
  }
  let loaded = 0;
  for (const name of names) {
    const parameter = parameters.get(name)!;
    const info = checkpoint.info(name);
    const where = `tensor ${name} (${checkpoint.fileOf(name).path})`;
    if (parameter instanceof QuantizedParameter) {
      await loadQuantized(parameter, name, checkpoint, model.storage, where);
    } else {
      const value = toTensor(await checkpoint.load(name), info, parameter, where, checkFinite);
      parameter.write(value);
      value.dispose();
    }
    loaded++;
    onProgress?.({tensor: name, loaded, total: names.length});
    if (loaded % 16 === 0) await new Promise((resume) => setTimeout(resume)); // let others run
  }
}

/** The tensors that belong to quantized weights, beside the weights themselves. */
function companionsOf(parameters: Map<string, Parameter>, checkpoint: ModelCheckpoint): string[] {
  const quantized = [...parameters].filter(([, parameter]) => parameter instanceof QuantizedParameter);
  return quantized.flatMap(([name]) => bitsandbytesKeys(name, checkpoint).filter((key) => key !== name));
}

/** Takes over a weight that the file holds quantized, or quantizes it. */
async function loadQuantized(
  parameter: QuantizedParameter,
  name: string,
  checkpoint: ModelCheckpoint,
  storage: StorageDtype,
  where: string,
): Promise<void> {
  if (bitsandbytesType(name, checkpoint) !== undefined) {
    const bytes = new Map<string, Uint8Array>();
    for (const key of bitsandbytesKeys(name, checkpoint)) bytes.set(key, await checkpoint.load(key));
    const source = {
      has: (key: string) => checkpoint.has(key),
      info: (key: string) => checkpoint.info(key),
      read: (key: string) => bytes.get(key)!,
    };
    const matrix = fromTensors(name, source, storage === 'float32' ? 'float16' : storage);
    assertShapeOf(where, matrix.shape, parameter);
    parameter.writeMatrix(matrix);
    return;
  }
  const info = checkpoint.info(name);
  assertMatches(where, info, parameter);
  const bytes = await checkpoint.load(name);
  const fileDtype = STORAGE[info.dtype as keyof typeof STORAGE];
  if (fileDtype === storage && storage !== 'float32') {
    parameter.quantize(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2), storage);
    return;
  }
  const values = toFloat32(bytes, info.dtype, where);
  parameter.quantize(fromFloat32(values, storage) as Float32Array | Uint16Array, storage);
}

/** What lies beside the decoder and its head, such as the `v_head` of a reward model, has no part in the logits. */
const isOfAnotherModule = (name: string): boolean => !/^(model|lm_head)\.|\.lora_/.test(name);

/** Tensors some exporters add that the model derives: rotary tables, and a head that is tied anyway. */
function isRedundant(name: string, parameters: Map<string, Parameter>): boolean {
  if (parameters.has(name)) return false;
  return name.endsWith('.rotary_emb.inv_freq') || name === 'lm_head.weight';
}

function assertMatches(where: string, info: TensorInfo, parameter: Parameter): void {
  if (!(info.dtype in STORAGE)) {
    throw new TfjsLoraError('UNSUPPORTED', `${where}: expected dtype F32, F16 or BF16, got ${info.dtype}`);
  }
  assertShapeOf(where, info.shape, parameter);
}

function assertShapeOf(where: string, shape: readonly number[], {logicalShape}: Parameter): void {
  if (tf.util.arraysEqual([...shape], logicalShape)) return;
  throw new TfjsLoraError(
    'SHAPE_MISMATCH',
    `${where}: expected [${logicalShape.join(', ')}] from config.json, got [${shape.join(', ')}]. ` +
      'Config and weights are of different models.',
  );
}

/** A file's bytes as the tensor that stores the weight; without a copy where the types agree. */
export function toTensor(
  bytes: Uint8Array,
  info: TensorInfo,
  parameter: Pick<Parameter, 'storage' | 'logicalShape' | 'shape'>,
  where: string,
  checkFinite: boolean,
): tf.Tensor {
  const {logicalShape, shape} = parameter;
  const storage = parameter.storage as StorageDtype;
  const [rows, cols] = logicalShape;
  if (storage !== 'float32' && STORAGE[info.dtype as keyof typeof STORAGE] === storage) {
    const bits = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
    if (checkFinite) assertFiniteBits(bits, storage === 'bfloat16' ? 0x7f80 : 0x7c00, where);
    return tf.tensor(packRows(bits, rows, cols), shape as number[], 'int32');
  }
  const values = toFloat32(bytes, info.dtype, where);
  if (checkFinite) assertFinite(values, where);
  if (storage === 'float32') return tf.tensor(values, shape as number[], 'float32');
  return tf.tensor(packFloat32Rows(values, rows, cols, storage), shape as number[], 'int32');
}

function assertFiniteBits(bits: Uint16Array, exponent: number, where: string): void {
  for (let i = 0; i < bits.length; i++) if ((bits[i] & exponent) === exponent) throw notFinite(where, i);
}

function assertFinite(values: Float32Array, where: string): void {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) throw notFinite(where, i);
}

function notFinite(where: string, index: number): TfjsLoraError {
  return new TfjsLoraError(
    'NON_FINITE',
    `${where}: expected numbers, got NaN or infinity at element ${index}. The weights are damaged.`,
  );
}

/** Writes the model's folder; see `CausalLM.save`. */
export async function savePretrained(
  model: CausalLM,
  target: FolderTarget,
  options: SaveOptions,
): Promise<tf.io.SaveResult> {
  assertKnownOptions('save', options, SAVE_OPTIONS);
  const folder = folderToWrite(target);
  const {dtype = model.storage, maxShardBytes = 5e9} = options;
  const unmerged = [...model.adaptedLayers()].find(
    ([, layer]) => !layer.isMerged && layer.activeAdapters.length > 0,
  );
  if (unmerged) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `save ${folder.path}: expected merged adapters, got an unmerged one on ${unmerged[0]}. ` +
        'Call mergeLoRA() first, or saveAdapter() to write the adapter alone.',
    );
  }
  await folder.create();
  const weights = [...model.namedParameters()].filter(([name]) => !/\.lora_[a-zA-Z_]+\./.test(`${name}.`));
  const isQuantized = !options.dequantize;
  const quantization = isQuantized ? formatQuantizationConfig(model) : undefined;
  const tensors: TensorToWrite[] = [];
  for (const [name, parameter] of weights) {
    if (isQuantized && parameter instanceof QuantizedParameter) {
      tensors.push(...(await quantizedTensors(name, parameter)));
    } else {
      const data = () => toBytes(parameter, dtype);
      tensors.push({name, dtype: FILE_DTYPE[dtype], shape: parameter.logicalShape, data});
    }
  }
  const {quantization_config, ...config} = model.formatConfig(dtype);
  const json = quantization ? {...config, quantization_config: quantization} : config;
  const fill = async (draft: WritableFolder) => {
    await draft.writeShards(tensors, {maxShardBytes});
    await draft.write('config.json', `${JSON.stringify(json, null, 2)}\n`);
    if (Object.keys(model.generationConfig).length > 0)
      await writeGenerationConfig(draft, model.generationConfig);
    await model.tokenizer?.save(draft);
  };
  await folder.writeTogether('config.json', fill, staleAfterSave(model));
  return {modelArtifactsInfo: {dateSaved: new Date(), modelTopologyType: 'JSON'}};
}

/** Which files of an earlier save do not belong to a model that does not write them: weights, settings, its tokenizer's. */
export function staleAfterSave({tokenizer}: CausalLM): (name: string) => boolean {
  const ofWeights = /^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/;
  return (name) =>
    ofWeights.test(name) ||
    name === 'generation_config.json' ||
    (tokenizer !== undefined && TOKENIZER_FILES.includes(name));
}

/** A quantized weight's tensors in a file, read when they are written, so that one weight at a time is on the host. */
async function quantizedTensors(name: string, parameter: QuantizedParameter): Promise<TensorToWrite[]> {
  const read = async () => toTensors(name, (await parameter.readMatrix()) as QuantizedTensor | Int8Tensor);
  const tensors = await read();
  return tensors.map(({name, dtype, shape}, i) => ({
    name,
    dtype,
    shape,
    data: async () => (await read())[i].data as ArrayBufferView,
  }));
}

/** A weight's values in a file's type. */
export async function toBytes(parameter: Parameter, dtype: StorageDtype): Promise<ArrayBufferView> {
  if (parameter instanceof QuantizedParameter) {
    return fromFloat32((await parameter.readMatrix()).dequantize(), dtype);
  }
  const data = await parameter.read().data();
  const [rows, cols] = parameter.logicalShape;
  if (asynchronousBackends.has(tf.backend())) assertSound(parameter, data as Float32Array | Int32Array);
  const storage = parameter.storage as StorageDtype;
  if (storage !== 'float32') {
    if (storage === dtype) return unpackRowBits(data as Int32Array, rows, cols);
    return fromFloat32(unpackRows(data as Int32Array, rows, cols, storage), dtype);
  }
  return fromFloat32(data as Float32Array, dtype);
}

/** Where a merge could not look at its result at once, it is looked at here. */
function assertSound(parameter: Parameter, data: Float32Array | Int32Array): void {
  const {originalName, storage, logicalShape} = parameter;
  const where = `save ${originalName}`;
  if (storage === 'float32') {
    assertFinite(data as Float32Array, where);
    return;
  }
  const [rows, cols] = logicalShape;
  const exponent = storage === 'bfloat16' ? 0x7f80 : 0x7c00;
  assertFiniteBits(unpackRowBits(data as Int32Array, rows, cols), exponent, where);
}

function fromFloat32(values: Float32Array, dtype: StorageDtype): ArrayBufferView {
  if (dtype === 'float32') return values;
  return dtype === 'bfloat16' ? float32ToBfloat16(values) : float32ToFloat16(values);
}

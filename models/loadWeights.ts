import * as tf from '@tensorflow/tfjs';
import type {Parameter} from '../layers/parameter.ts';
import {QuantizedParameter} from '../layers/quantizedParameter.ts';
import {nearestNames, TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import type {QuantizerFiles} from '../quant/quantizer.ts';
import {storedQuantizer} from '../quant/quantizerRegistry.ts';
import {FLOAT_DTYPES} from '../quant/safetensors/floatDtypes.ts';
import type {TensorInfo} from '../quant/safetensors/safetensorsHeader.ts';
import {warn} from '../quant/warn.ts';
import {letSignalsThrough} from './letSignalsThrough.ts';
import type {ModelTensors} from './modelTensors.ts';

export interface LoadWeightsOptions {
  /** Whether to refuse weights with NaN or infinity, at the cost of one pass over the bytes. Default true. */
  checkFinite?: boolean;
  /** Called after each tensor. */
  onProgress?: (progress: {tensor: string; loaded: number; total: number}) => void;
  /** Stops the loading before the next tensor, with the signal's reason as the error; nothing stays in memory. */
  signal?: AbortSignal;
}

/** Returns the storage type of the matrices in a model's files. */
export function storageOf(files: ModelTensors): StorageDtype {
  for (const name of files.names()) {
    if (!name.endsWith('.weight') || storedQuantizer(name, files)) continue; // codes and scales have dtypes of their own
    const {dtype, shape} = files.info(name);
    const storage = shape.length === 2 ? FLOAT_DTYPES[dtype] : undefined;
    if (storage) return storage;
  }
  return 'float32';
}

/** A file stores at most eight weights of 1 bit per byte. A few more may be missing, and are reported by name later. */
const [WEIGHTS_PER_BYTE, UNCHECKED_WEIGHTS] = [8, 1e6];

/**
 * Refuses the config of a model far larger than its files, because building it would fill the memory before a missing
 * tensor is noticed.
 *
 * @param parameters number of weights of the model that the config `where` describes
 */
export function assertFilesHold(parameters: number, files: ModelTensors, where: string): void {
  const bytes = files.names().reduce((sum, name) => {
    const {begin, end} = files.info(name);
    return sum + end - begin;
  }, 0);
  if (parameters <= bytes * WEIGHTS_PER_BYTE + UNCHECKED_WEIGHTS) return;
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `${where}: expected the sizes of a model that fits into its files, got one of ${parameters} weights for files of ` +
      `${bytes} bytes. Config and weights belong to different models.`,
  );
}

/**
 * Checks that the files have the tensors that a model's parameters declare, and no others, without reading any.
 *
 * @returns the names of the weights to read, and of the tensors of other modules, in the order of the file's bytes
 * @throws TfjsLoraError `MISSING_TENSOR`, `UNEXPECTED_TENSOR`, `SHAPE_MISMATCH`
 */
export function assertTensors(
  parameters: Map<string, Parameter>,
  files: ModelTensors,
): {names: string[]; others: string[]} {
  const weightOf = weightsOfTensors(parameters, files);
  const ofWeights = files.names().filter((name) => weightOf.has(name) || !isRedundant(name, parameters));
  const others = ofWeights.filter(isOfAnotherModule);
  const ownTensors = ofWeights.filter((name) => !isOfAnotherModule(name));
  const names = new Set(ownTensors.map((name) => weightOf.get(name) ?? name));
  const missing = [...parameters.keys()].filter((name) => !names.has(name));
  if (missing.length > 0) {
    throw new TfjsLoraError(
      'MISSING_TENSOR',
      `model ${files.folder}: expected tensor ${missing[0]}` +
        `${missing.length > 1 ? ` and ${missing.length - 1} more` : ''}, got none of that name. ` +
        `Nearest: ${nearestNames(missing[0], files.names()).join(', ')}`,
    );
  }
  for (const name of names) {
    const parameter = parameters.get(name);
    if (!parameter) {
      throw new TfjsLoraError(
        'UNEXPECTED_TENSOR',
        `tensor ${name} (${files.fileOf(name).path}): expected only tensors of the model that config.json describes, ` +
          'got one it has no place for',
      );
    }
    if (parameter instanceof QuantizedParameter) continue;
    assertMatches(`tensor ${name} (${files.fileOf(name).path})`, files.info(name), parameter);
  }
  return {names: [...names], others};
}

/** Fills a model's declared weights from files, tensor by tensor, in the order of their bytes. */
export async function loadWeights(
  parameters: Map<string, Parameter>,
  files: ModelTensors,
  {checkFinite = true, onProgress, signal}: LoadWeightsOptions = {},
): Promise<void> {
  const {names, others} = assertTensors(parameters, files);
  if (others.length > 0) {
    const shown = others.slice(0, 4).join(', ') + (others.length > 4 ? ` and ${others.length - 4} more` : '');
    warn(`model ${files.folder}: left out ${shown}, which is not part of a causal language model`);
  }
  let loaded = 0;
  for (const name of names) {
    await letSignalsThrough(signal);
    const parameter = parameters.get(name)!;
    const quantizer = parameter instanceof QuantizedParameter ? storedQuantizer(name, files) : undefined;
    if (quantizer) {
      await loadQuantized(
        parameter as QuantizedParameter,
        name,
        files,
        quantizer.files,
        extraBias(name, parameters, files),
      );
    } else {
      const info = files.info(name);
      const where = `tensor ${name} (${files.fileOf(name).path})`;
      assertMatches(where, info, parameter);
      parameter.load(await files.load(name), info.dtype, {where, checkFinite});
    }
    loaded++;
    onProgress?.({tensor: name, loaded, total: names.length});
    if (loaded % 16 === 0) await new Promise((resume) => setTimeout(resume)); // lets other tasks run
  }
}

/** Returns the weights that files store quantized, by the names of all their tensors. */
function weightsOfTensors(parameters: Map<string, Parameter>, files: ModelTensors): Map<string, string> {
  const weightOf = new Map<string, string>();
  for (const [name, parameter] of parameters) {
    if (!(parameter instanceof QuantizedParameter)) continue;
    for (const key of storedQuantizer(name, files)?.files.keys(name, files) ?? []) weightOf.set(key, name);
    for (const bias of extraBias(name, parameters, files)) weightOf.set(bias, name);
  }
  return weightOf;
}

/** Returns the bias beside a quantized weight of a GPTQ file whose layer has none. */
function extraBias(name: string, parameters: Map<string, Parameter>, files: ModelTensors): string[] {
  const bias = name.replace(/weight$/, 'bias');
  const isExtra =
    files.quantizationConfig?.quant_method === 'gptq' && !parameters.has(bias) && files.has(bias);
  return isExtra ? [bias] : [];
}

/** Loads a weight that the file stores quantized. */
async function loadQuantized(
  parameter: QuantizedParameter,
  name: string,
  files: ModelTensors,
  format: QuantizerFiles,
  extras: string[],
): Promise<void> {
  const bytes = new Map<string, Uint8Array>();
  const keys = format.keys(name, files);
  for (const key of [...keys, ...extras]) bytes.set(key, await files.load(key));
  const source = {
    quantizationConfig: files.quantizationConfig,
    extras,
    has: (key: string) => files.has(key),
    info: (key: string) => files.info(key),
    read: (key: string) => bytes.get(key)!,
  };
  const matrix = format.fromTensors(name, source, parameter.valueDtype);
  assertShapeOf(`tensor ${keys[0]} (${files.fileOf(keys[0]).path})`, matrix.shape, parameter);
  parameter.writeMatrix(matrix);
}

/** Whether a tensor belongs to neither decoder nor head, and so does not affect logits: a reward model's `v_head`. */
const isOfAnotherModule = (name: string): boolean => !/^(model|lm_head)\.|\.lora_/.test(name);

/** Whether a tensor is one that some exporters add but the model derives: rotary tables, or a tied head. */
function isRedundant(name: string, parameters: Map<string, Parameter>): boolean {
  if (parameters.has(name)) return false;
  return name.endsWith('.rotary_emb.inv_freq') || name === 'lm_head.weight';
}

function assertMatches(where: string, info: TensorInfo, parameter: Parameter): void {
  if (!(info.dtype in FLOAT_DTYPES)) {
    throw new TfjsLoraError('UNSUPPORTED', `${where}: expected dtype F32, F16 or BF16, got ${info.dtype}`);
  }
  assertShapeOf(where, info.shape, parameter);
}

function assertShapeOf(where: string, shape: readonly number[], {logicalShape}: Parameter): void {
  if (tf.util.arraysEqual([...shape], logicalShape)) return;
  throw new TfjsLoraError(
    'SHAPE_MISMATCH',
    `${where}: expected [${logicalShape.join(', ')}] from config.json, got [${shape.join(', ')}]. ` +
      'Config and weights belong to different models.',
  );
}

import type {Parameter} from '../../layers/parameter.ts';
import {didYouMean, TfjsLoraError} from '../../quant/errors.ts';
import type {StorageDtype} from '../../quant/float16.ts';
import {type FolderTarget, folderToWrite} from '../../quant/folders/openFolder.ts';
import {encodeGgml, type GgmlType} from '../../quant/gguf/ggmlType.ts';
import type {GgufValue} from '../../quant/gguf/ggufValue.ts';
import {type GgufTensor, ggufFile} from '../../quant/gguf/writeGguf.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import {show} from '../../quant/show.ts';
import {letSignalsThrough} from '../letSignalsThrough.ts';
import {mergedWeights, type TensorProgress} from '../savePretrained.ts';
import {ggufArchitectureOf} from './ggufArchitecture.ts';
import {
  fileTypeNumber,
  GGUF_FILE_TYPES,
  type GgufFileType,
  type MixedModel,
  tensorType,
} from './ggufFileType.ts';
import type {GgufConfig, GgufModel} from './ggufModel.ts';
import {hyperparameters} from './hyperparameters.ts';
import {permutedRows} from './permutedRows.ts';
import {ropeTensors} from './ropeScaling.ts';
import {type GgufArchitecture, ggufTensorName} from './tensorNames.ts';
import {addTokenizer} from './tokenizerMetadata.ts';

export interface SaveGgufOptions {
  /** Storage type of the matrices. Default: the model's own type, `f32`, `f16` or `bf16`. */
  type?: GgufFileType;
  /** Name of the file. Default `model-<type>.gguf`. */
  fileName?: string;
  /** `general.name`, which programs show. Default: the last part of the folder or name that the weights came from. */
  name?: string;
  /** Called after each tensor. */
  onProgress?: (progress: TensorProgress) => void;
  /** Stops before the next tensor, with the signal's reason as the error; an older file does not change. */
  signal?: AbortSignal;
}
const SAVE_GGUF_OPTIONS = {
  type: true,
  fileName: true,
  name: true,
  onProgress: true,
  signal: true,
} satisfies OptionNames<SaveGgufOptions>;

export interface SaveGgufResult {
  file: string;
  /** Size of the file. */
  bytes: number;
  type: GgufFileType;
}

/** Returns the file type that stores a model's matrices as they are. */
export const ggufTypeOf = (storage: StorageDtype): GgufFileType =>
  (({float32: 'f32', float16: 'f16', bfloat16: 'bf16'}) as const)[storage];

/** Returns the name of a file of a type, unless another is given. */
export const ggufFileName = (type: GgufFileType): string => `model-${type}.gguf`;

/** `general.quantization_version`: that of the blocks in these files. */
const QUANTIZATION_VERSION = 2;

/** Writes the model's GGUF file; see `CausalLM.saveGguf`. */
export async function saveGguf(
  given: Pick<GgufModel, 'modelType'>,
  target: FolderTarget,
  options: SaveGgufOptions = {},
): Promise<SaveGgufResult> {
  assertKnownOptions('saveGguf', options, SAVE_GGUF_OPTIONS);
  options.signal?.throwIfAborted();
  const architecture = ggufArchitectureOf(given.modelType, 'saveGguf');
  const model = given as GgufModel; // each of these families is a decoder of Llama's kind
  const {type = ggufTypeOf(model.storage)} = options;
  assertFileType(type, 'saveGguf type', GGUF_FILE_TYPES);
  const {fileName = ggufFileName(type)} = options;
  const folder = folderToWrite(target);
  const path = folder.pathOf(fileName);
  const tensors = tensorsOf(architecture, model, type, path);
  const metadata = metadataOf(architecture, model, type, options.name);
  const {byteLength, pieces} = ggufFile(metadata, watched(tensors, options), path);
  await folder.create();
  await folder.writePieces(fileName, pieces(), byteLength);
  return {file: fileName, bytes: byteLength, type};
}

/** @throws TfjsLoraError `INVALID_ARGUMENT` for what is not the name of one of the file types */
export function assertFileType<Type extends GgufFileType>(
  type: unknown,
  what: string,
  types: readonly Type[],
): asserts type is Type {
  if (types.includes(type as Type)) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${what}: expected one of ${types.join(', ')}, got ${show(type)}.${didYouMean(String(type).toLowerCase(), types)}`,
  );
}

function metadataOf(
  architecture: GgufArchitecture,
  model: GgufModel,
  type: GgufFileType,
  name = model.nameOrPath.split(/[/\\]/).findLast((part) => part !== ''),
): ReadonlyMap<string, GgufValue> {
  const {tokenizer, generationConfig, config, valueHead} = model;
  if (!tokenizer) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      'saveGguf tokenizer: expected a model with its tokenizer, which llama.cpp needs, got one without. ' +
        'Set model.tokenizer.',
    );
  }
  if (valueHead) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      'saveGguf: expected a model without a value head, which GGUF cannot store, got one. Call removeValueHead() first.',
    );
  }
  const metadata = hyperparameters(architecture, model);
  addTokenizer(metadata, tokenizer, config.vocabSize, [generationConfig.eosTokenId ?? []].flat());
  return new Map<string, GgufValue>([
    ['general.architecture', {type: 'string', value: architecture.name}],
    ['general.type', {type: 'string', value: 'model'}],
    ...(name ? [['general.name', {type: 'string', value: name}] as const] : []),
    ['general.file_type', {type: 'uint32', value: fileTypeNumber(type)}],
    ['general.quantization_version', {type: 'uint32', value: QUANTIZATION_VERSION}],
    ...metadata,
  ]);
}

function tensorsOf(
  architecture: GgufArchitecture,
  model: GgufModel,
  fileType: GgufFileType,
  path: string,
): GgufTensor[] {
  const {numHiddenLayers: layers, tieWordEmbeddings: isTied} = model.config;
  const mixed: MixedModel = {layers, isTied, is70B: is70B(architecture, model)};
  const weights = mergedWeights(model, 'saveGguf', path).map(([name, parameter]): GgufTensor => {
    const inFile = nameInFile(architecture, name, model);
    const shape = parameter.logicalShape;
    const type = tensorType(fileType, inFile, shape, mixed);
    return {name: inFile, type, shape, data: () => bytesOf(architecture, name, parameter, type, model)};
  });
  return [...ropeTensors(model), ...weights];
}

/** Whether llama.cpp takes a model for one of 70B. */
const is70B = ({name}: GgufArchitecture, {config}: GgufModel): boolean =>
  config.numHiddenLayers === 80 &&
  (name === 'qwen2' || (name === 'llama' && config.numAttentionHeads !== config.numKeyValueHeads));

/** The biases that llama.cpp's graph of an architecture adds. */
const BIASES: Readonly<Record<string, RegExp>> = {llama: /\.bias$/, qwen2: /\.attn_[qkv]\.bias$/};

function nameInFile(architecture: GgufArchitecture, name: string, {modelType}: GgufModel): string {
  const inFile = ggufTensorName(architecture, name);
  const isBias = inFile?.endsWith('.bias');
  if (inFile !== undefined && (!isBias || BIASES[architecture.name]?.test(inFile))) return inFile;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `saveGguf ${modelType} weight ${name}: expected only weights that llama.cpp's ${architecture.name} has, got another`,
  );
}

/** Returns a weight's bytes in the file: rows in llama.cpp's order, norms with the offset that the graph adds here. */
async function bytesOf(
  architecture: GgufArchitecture,
  name: string,
  parameter: Parameter,
  type: GgmlType,
  {config}: GgufModel,
): Promise<ArrayBufferView> {
  const half = type.name === 'F16' ? 'float16' : type.name === 'BF16' ? 'bfloat16' : undefined;
  const stored = (await parameter.toBytes(half ?? 'float32')) as Float32Array | Uint16Array;
  if (half === 'float16') assertInRange(stored as Uint16Array, name);
  const heads = architecture.isPermuted ? rotatedHeads(name, config) : undefined;
  const values = heads === undefined ? stored : permutedRows(stored, heads, config.headDim, 'neighbours');
  if (half) return values;
  const {normOffset = 0} = architecture;
  const isNorm = normOffset !== 0 && name.endsWith('norm.weight');
  return encodeGgml(type, (isNorm ? values.map((value) => value + normOffset) : values) as Float32Array);
}

/** Returns the number of heads in a weight whose rows rotate in pairs. */
export function rotatedHeads(
  name: string,
  {numAttentionHeads, numKeyValueHeads}: Pick<GgufConfig, 'numAttentionHeads' | 'numKeyValueHeads'>,
): number | undefined {
  if (/\.q_proj\b/.test(name)) return numAttentionHeads;
  return /\.k_proj\b/.test(name) ? numKeyValueHeads : undefined;
}

function assertInRange(bits: Uint16Array, name: string): void {
  if (!bits.some((half) => (half & 0x7c00) === 0x7c00)) return;
  throw new TfjsLoraError(
    'NON_FINITE',
    `saveGguf weight ${name}: expected numbers that f16 has, below 65520, got a larger one. Choose bf16 or f32.`,
  );
}

/** Returns tensors that report when they are written, and stop at an aborted signal. */
function watched(tensors: GgufTensor[], {onProgress, signal}: SaveGgufOptions): GgufTensor[] {
  return tensors.map((tensor, i) => ({
    ...tensor,
    data: async () => {
      await letSignalsThrough(signal);
      const bytes = await tensor.data();
      onProgress?.({tensor: tensor.name, done: i + 1, total: tensors.length});
      return bytes;
    },
  }));
}

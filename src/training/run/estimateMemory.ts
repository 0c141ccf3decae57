import * as tf from '@tensorflow/tfjs';
import type {LoRAAdapter} from '../../../layers/loraAdapter.ts';
import {attentionOp, fitsKernel} from '../../../layers/ops/attention.ts';
import {backendTraits} from '../../../layers/ops/backendTraits.ts';
import {decoderStackOp} from '../../../layers/ops/decoderStack.ts';
import {hasKernel} from '../../../layers/ops/dispatch.ts';
import type {GradientCheckpointing} from '../../../layers/ops/gradientCheckpointing.ts';
import type {DecoderShape} from '../../../layers/ops/stackMemory.ts';
import {areWholeMatrices} from '../../../layers/ops/storedMatrix.ts';
import {isOfValueHead} from '../../../models/valueHeadFile.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {GROUPED_TYPES, type GroupedType} from '../../../quant/grouped/groupedTensor.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {isBatch, type TrainingData} from '../../data/batches/batches.ts';
import {rowsOf} from '../../data/batches/collate.ts';
import type {TrainableModel} from '../steps/trainableModel.ts';
import {assertCount, type FitPlan} from './fitArgs.ts';
import {formatBytes} from './formatBytes.ts';
import {InsufficientMemoryError, type MemoryChange} from './insufficientMemoryError.ts';
import {stackMemory} from './stackMemory.ts';

/** A decoder like Llama, with or without allocated weights. */
export interface EstimableModel {
  readonly config: DecoderShape;
  readonly gradientCheckpointing: GradientCheckpointing;
  /** Whether its blocks are such as one op may compute. Default true. */
  readonly hasPlainBlocks?: boolean;
  /** Returns the weights with their shape and stored dtype, and the matrices they represent. */
  namedParameters(): Map<string, StoredWeight>;
  adaptedLayers?(): Map<string, {adapters: Map<string, Pick<LoRAAdapter, 'settings'>>}>;
}

interface StoredWeight {
  readonly shape: tf.Shape;
  readonly logicalShape: number[];
  readonly storage: string;
  readonly trainable: boolean;
  readonly isAllocated: boolean;
  readonly byteLength: number;
  readonly quantization?: {type: string; blockSize?: number; doubleQuant?: boolean};
}

export interface EstimateArgs {
  /** Examples in a batch. */
  batchSize: number;
  /** Number of tokens in the longest row, padding included. */
  sequenceLength: number;
  /** Optimizer. Default: AdamW, with 8 bytes per trained weight. */
  optimizer?: tf.Optimizer;
  /** Default: the model's setting. */
  gradientCheckpointing?: GradientCheckpointing;
  /** Number of batches per step. Above 1, the sum of the gradients is kept beside a batch's own. Default 1. */
  gradientAccumulationSteps?: number;
  /** Other models in memory, whose weights count too, such as a reference. Default: none. */
  otherModels?: readonly Pick<EstimableModel, 'namedParameters'>[];
}
const ESTIMATE_OPTIONS = {
  batchSize: true,
  sequenceLength: true,
  optimizer: true,
  gradientCheckpointing: true,
  gradientAccumulationSteps: true,
  otherModels: true,
} satisfies OptionNames<EstimateArgs>;

/** Bytes at the peak of a training step. */
export interface MemoryEstimate {
  /** Bytes of the weights as stored: float32, or packed 16-bit or 4-bit. */
  weights: number;
  gradients: number;
  optimizer: number;
  /** Bytes that forward keeps, plus those that the larger of block and head needs, including one unpacked matrix. */
  activations: number;
  /** Bytes of a chunk of logits with its gradient, when the head is the peak. */
  logits: number;
  total: number;
}

/**
 * Floats that a block's forward leaves for backward, per number of each inner size, counted with the composed ops of
 * `layers/ops` (the same on cpu and wasm); kernels that fuse more need less.
 */
const BLOCK = {hidden: 25, query: 12, keyValue: 6.3, intermediate: 5.8, scores: 5, dropout: 4.4, dora: 3.8};
/** Additional floats of a block's backward at its widest point, in the feed-forward or in attention. */
const BACKWARD = {intermediate: 9, scores: 4.5};
/** Floats per hidden number, logit, and number of the head's matrix while head and loss run. */
const HEAD = {hidden: 8, logits: 4, matrix: 1};
const TRAINED_HEAD = {hidden: 8, logits: 6, matrix: 1.3};
/** Number of logits in memory at a time: see `linearCrossEntropy`. */
const CHUNK_ELEMENTS = 1 << 24;

/** Bytes of state that TensorFlow.js's own optimizers keep per trained weight; an unknown one counts as Adam. */
const OPTIMIZER_BYTES: Record<string, number> = {SGD: 0, Momentum: 4, Adagrad: 4};
const ADAM_BYTES = 8;

/**
 * Estimates the peak memory of a training step from shapes alone, without allocating anything. The model may have been
 * made with `allocate: false`. On a backend whose ops compute all blocks together, this is the memory of the card.
 *
 * @example
 * ```ts
 * import {estimateMemory, Llama} from 'tfjs-lora';
 *
 * const plan = Llama.fromConfig('llama-3.2-1b', {dtype: 'bfloat16', allocate: false}).applyLoRA({rank: 8});
 * const {total} = estimateMemory(plan, {batchSize: 4, sequenceLength: 2048});
 * console.log(`${(total / 2 ** 30).toFixed(1)} GiB`);
 * ```
 */
export function estimateMemory(model: EstimableModel, args: EstimateArgs): MemoryEstimate {
  assertKnownOptions('estimateMemory', args, ESTIMATE_OPTIONS, 'required');
  const {batchSize, sequenceLength, gradientAccumulationSteps = 1, optimizer, otherModels = []} = args;
  for (const [name, count] of Object.entries({batchSize, sequenceLength, gradientAccumulationSteps}))
    assertCount(`estimateMemory ${name}`, count);
  const parameters = [...new Set(model.namedParameters().values())]; // replicated layers share theirs
  const trained = parameters.filter(({trainable}) => trainable);
  const trainedCount = trained.reduce((sum, {logicalShape}) => sum + tf.util.sizeFromShape(logicalShape), 0);
  const stored = [...parameters, ...otherModels.flatMap((other) => [...other.namedParameters().values()])];
  const weights = stored.reduce((sum, weight) => sum + bytesOf(weight), 0);
  const always = {
    weights,
    gradients: 4 * trainedCount * (gradientAccumulationSteps > 1 ? 2 : 1),
    optimizer: bytesOfState(optimizer, trained),
  };
  const checkpointing = args.gradientCheckpointing ?? model.gradientCheckpointing;
  const during = isOneOp(model)
    ? bytesOfStack(model, batchSize, sequenceLength, checkpointing)
    : bytesOfComposed(model, batchSize, sequenceLength, checkpointing);
  const estimate = {...always, ...during};
  return {...estimate, total: Object.values(estimate).reduce((sum, bytes) => sum + bytes, 0)};
}

type Activations = Pick<MemoryEstimate, 'activations' | 'logits'>;

function bytesOfStack(
  model: EstimableModel,
  batchSize: number,
  length: number,
  checkpointing: GradientCheckpointing,
): Activations {
  const ranks = new Map<string, number>();
  for (const [path, {adapters}] of model.adaptedLayers?.() ?? []) {
    const name = path.slice(path.lastIndexOf('.') + 1);
    for (const {settings} of adapters.values())
      ranks.set(name, Math.max(settings.rank, ranks.get(name) ?? 0));
  }
  const isHeadUnpacked = headOf(model).storage !== 'bfloat16';
  const {config} = model;
  const isQuantized = [...model.namedParameters().values()].some(({quantization}) => quantization);
  const step = {config, ranks, batchSize, sequenceLength: length, checkpointing, isQuantized};
  const bytes =
    backendTraits().stackMemory?.(step) ??
    stackMemory(model, ranks, batchSize, length, checkpointing, isHeadUnpacked);
  const isHeadHigher = bytes.loss + bytes.logits > bytes.backward;
  return {
    activations: bytes.saved + bytes.rest + (isHeadHigher ? bytes.loss : bytes.backward),
    logits: isHeadHigher ? bytes.logits : 0,
  };
}

/** Returns the head's matrix, which may be the embedding's. */
function headOf(model: EstimableModel): StoredWeight {
  const parameters = model.namedParameters();
  return (parameters.get('lm_head.weight') ?? parameters.get('model.embed_tokens.weight')) as StoredWeight;
}

/** Whether the backend computes the blocks by one op, as far as shapes and settings show. */
function isOneOp(model: EstimableModel): boolean {
  if (!hasKernel(decoderStackOp) || ![64, 128].includes(model.config.headDim)) return false;
  if (model.hasPlainBlocks === false) return false;
  const layers = [...(model.adaptedLayers?.().values() ?? [])];
  const arePlain = layers.every(
    ({adapters}) =>
      adapters.size <= 1 &&
      [...adapters.values()].every(({settings}) => settings.dropout === 0 && !settings.useDoRA),
  );
  return (
    arePlain &&
    [...model.namedParameters()].every(
      ([name, {logicalShape, storage, trainable}]) =>
        name.includes('.lora_') ||
        isOfValueHead(name) ||
        (!trainable &&
          (logicalShape.length === 1 || storage !== 'float32') &&
          (!name.endsWith('_proj.weight') || areWholeMatrices(logicalShape))),
    )
  );
}

function bytesOfComposed(
  model: EstimableModel,
  batchSize: number,
  sequenceLength: number,
  isRecomputed: GradientCheckpointing,
): Activations {
  const positions = batchSize * sequenceLength;
  const {hiddenSize, numHiddenLayers, vocabSize} = model.config;
  const parameters = [...model.namedParameters().values()];
  const {kept, keptAnyway, backward} = floatsOfBlock(model, sequenceLength);
  const ofBlocks = isRecomputed ? (numHiddenLayers - 1) * keptAnyway + kept : numHiddenLayers * kept; // the last is not
  const forward = positions * ofBlocks;
  const unpacked = Math.max(
    0,
    ...parameters
      .filter(({storage, logicalShape}) => storage !== 'float32' && logicalShape[0] !== vocabSize)
      .map(matrixSize),
  );
  const atBlock = forward + positions * backward + unpacked;
  const isHeadTrained = parameters.some(
    ({logicalShape, trainable}) => trainable && logicalShape[0] === vocabSize,
  );
  const head = isHeadTrained ? TRAINED_HEAD : HEAD;
  const atHead = forward + head.hidden * positions * hiddenSize + head.matrix * vocabSize * hiddenSize;
  const chunk = Math.min(positions, Math.max(1, Math.floor(CHUNK_ELEMENTS / vocabSize))) * vocabSize;
  const logits = head.logits * chunk;
  const isHeadHigher = atHead + logits > atBlock;
  return {
    activations: Math.round(4 * (isHeadHigher ? atHead : atBlock)),
    logits: isHeadHigher ? 4 * logits : 0,
  };
}

/**
 * Counts floats per position: those that one block's forward leaves, those it leaves even if recomputed, and the
 * additional ones of its backward.
 */
function floatsOfBlock(
  model: EstimableModel,
  length: number,
): {kept: number; keptAnyway: number; backward: number} {
  const {hiddenSize, intermediateSize, numAttentionHeads, numKeyValueHeads, headDim} = model.config;
  const query = numAttentionHeads * headDim;
  const keyValue = 2 * numKeyValueHeads * headDim;
  const adapters = [...(model.adaptedLayers?.().values() ?? [])].flatMap((layer) => [
    ...layer.adapters.values(),
  ]);
  const dropped = adapters.some(({settings}) => settings.dropout > 0)
    ? 5 * hiddenSize + query + intermediateSize
    : 0;
  const directed = adapters.some(({settings}) => settings.useDoRA)
    ? 2 * hiddenSize + query + keyValue + 2 * intermediateSize
    : 0;
  const hasFusedAttention = hasKernel(attentionOp) && fitsKernel(headDim);
  const scores = hasFusedAttention ? 0 : numAttentionHeads * length;
  return {
    kept:
      BLOCK.hidden * hiddenSize +
      BLOCK.query * query +
      BLOCK.keyValue * keyValue +
      BLOCK.intermediate * intermediateSize +
      BLOCK.scores * scores +
      BLOCK.dropout * dropped +
      BLOCK.dora * directed,
    keptAnyway: hiddenSize + (hasFusedAttention ? query : 0),
    backward: Math.max(BACKWARD.intermediate * intermediateSize, BACKWARD.scores * scores),
  };
}

/** Returns the bytes of a weight as stored, or as it will be once allocated. */
function bytesOf(weight: StoredWeight): number {
  const {shape, quantization, isAllocated, byteLength} = weight;
  if (isAllocated) return byteLength;
  if (!quantization) return 4 * tf.util.sizeFromShape(shape as number[]);
  const {type, blockSize = 64, doubleQuant = false} = quantization;
  const size = matrixSize(weight);
  if (type === 'int8') return size + 4 * weight.logicalShape[0];
  if (GROUPED_TYPES.includes(type as GroupedType)) {
    const {bits = 8, group_size: columns = weight.logicalShape[1]} = quantization as GroupedSettings;
    return (size * bits) / 8 + 5 * Math.ceil(size / (columns > 0 ? columns : weight.logicalShape[1])); // scales and zeros
  }
  const blocks = Math.ceil(size / blockSize);
  const doubled = blocks + 4 * Math.ceil(blocks / 256) + 4; // codes of the scales, the scales' scales, and the offset
  return size / 2 + (doubleQuant ? doubled : 4 * blocks);
}

/** What the config of a model in groups may say of their size. */
interface GroupedSettings {
  type: string;
  bits?: number;
  group_size?: number;
}

/** An optimizer that knows the size of its state. */
interface SizedOptimizer {
  stateBytes?(shape: number[]): number;
  /** Whether the state is in host memory, except for {@link deviceBudgetBytes}. */
  isPaged?: boolean;
  deviceBudgetBytes?: number;
}

function bytesOfState(
  optimizer: (tf.Optimizer & SizedOptimizer) | undefined,
  trained: StoredWeight[],
): number {
  const sizeOf = ({logicalShape}: StoredWeight) =>
    optimizer?.stateBytes?.(logicalShape) ??
    (OPTIMIZER_BYTES[optimizer?.getClassName() ?? ''] ?? ADAM_BYTES) * tf.util.sizeFromShape(logicalShape);
  const bytes = trained.reduce((sum, weight) => sum + sizeOf(weight), 0);
  return optimizer?.isPaged ? Math.min(bytes, optimizer.deviceBudgetBytes ?? 0) : bytes;
}

const matrixSize = ({logicalShape}: StoredWeight): number => tf.util.sizeFromShape(logicalShape);

/**
 * Returns the most tokens that rows may have, a multiple of 8, so that the estimate of a step stays within a budget and no
 * tensor is larger than the backend's. Returns 0 if the shortest rows do not fit.
 *
 * @param budget bytes
 */
export function longestRows(
  model: EstimableModel,
  args: Omit<EstimateArgs, 'sequenceLength'>,
  budget: number,
): number {
  const {maxPositionEmbeddings, hiddenSize, numAttentionHeads, headDim} = model.config;
  const width = Math.max(hiddenSize, numAttentionHeads * headDim);
  const fits = (sequenceLength: number) =>
    4 * args.batchSize * sequenceLength * width <= backendTraits().maxTensorBytes &&
    estimateMemory(model, {...args, sequenceLength}).total <= budget;
  let [low, high] = [0, Math.floor(maxPositionEmbeddings / 8)];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (fits(8 * middle)) low = middle;
    else high = middle - 1;
  }
  return 8 * low;
}

/**
 * Refuses a run that does not fit into memory.
 *
 * @throws TfjsLoraError `INSUFFICIENT_MEMORY` with the estimate and the changes that would make it fit
 */
export function assertMemory(
  model: TrainableModel,
  optimizer: tf.Optimizer,
  data: TrainingData,
  plan: FitPlan,
  budget: number,
  otherModels: readonly object[] = [],
  newTokens = 0,
): void {
  if (!isEstimable(model) || !otherModels.every(isEstimable)) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      'fitDataset memoryBudget: expected a Llama model, whose memory can be estimated, got another model',
    );
  }
  const {maxPositionEmbeddings: most} = model.config;
  const sequenceLength = Math.min((longestRow(data) ?? most) + newTokens, most);
  const {batchSize, gradientAccumulationSteps} = plan;
  const args = {batchSize, sequenceLength, gradientAccumulationSteps, optimizer, otherModels};
  const estimate = estimateMemory(model, args);
  if (estimate.total <= budget) return;
  const parts = Object.entries(estimate)
    .filter(([part, bytes]) => part !== 'total' && bytes > 0)
    .map(([part, bytes]) => `${part} ${formatBytes(bytes)}`);
  throw new InsufficientMemoryError(
    `training memory: expected a peak of at most ${formatBytes(budget)}, got an estimate of ${formatBytes(estimate.total)} ` +
      `(${parts.join(', ')}) for ${batchSize} × ${sequenceLength} tokens.`,
    changesFor(model, args, budget),
  );
}

/** Lists changes until the run fits, cheapest first. */
function changesFor(
  model: EstimableModel,
  args: Required<Omit<EstimateArgs, 'gradientCheckpointing'>>,
  budget: number,
): MemoryChange[] {
  const changes: MemoryChange[] = [];
  let current: EstimateArgs = {...args, gradientCheckpointing: model.gradientCheckpointing};
  const totalWith = (settings: Partial<EstimateArgs>) =>
    estimateMemory(model, {...current, ...settings}).total;
  const apply = (settings: Omit<MemoryChange['settings'], 'optimizer'>): boolean => {
    current = {...current, ...settings};
    const total = totalWith({});
    changes.push({settings, total});
    return total <= budget;
  };
  if (!current.gradientCheckpointing && apply({gradientCheckpointing: true})) return changes;
  const canOffload = isOneOp(model) && current.gradientCheckpointing !== 'offload';
  if (canOffload && apply({gradientCheckpointing: 'offload'})) return changes;
  let {batchSize, sequenceLength} = args;
  while (batchSize > 1 && totalWith({batchSize}) > budget) batchSize = Math.floor(batchSize / 2);
  const gradientAccumulationSteps = Math.ceil((args.batchSize * args.gradientAccumulationSteps) / batchSize);
  if (batchSize < args.batchSize && apply({batchSize, gradientAccumulationSteps})) return changes;
  while (sequenceLength > 64 && totalWith({sequenceLength}) > budget)
    sequenceLength = Math.floor(sequenceLength / 2);
  if (sequenceLength < args.sequenceLength && apply({sequenceLength})) return changes;
  return [...changes, {settings: {quantization: 'nf4', optimizer: 'paged_adamw_8bit'}}];
}

/** Whether a model is one whose memory can be estimated: a decoder like Llama. */
export function isEstimable(model: object): model is EstimableModel & TrainableModel {
  const {config, namedParameters} = model as Partial<EstimableModel>;
  return typeof namedParameters === 'function' && typeof config?.intermediateSize === 'number';
}

/** Returns the number of tokens in a list's longest row, padded; undefined for data that is not a list. */
function longestRow(data: TrainingData): number | undefined {
  if (!Array.isArray(data)) return undefined;
  let longest = 0;
  for (const item of data) {
    for (const {inputIds} of isBatch(item) ? [item] : rowsOf(item)) {
      const shape = (inputIds as unknown) instanceof tf.Tensor ? (inputIds as tf.Tensor).shape : undefined;
      const length =
        shape?.at(-1) ?? (isBatch(item) ? (inputIds as number[][])[0] : (inputIds as number[])).length;
      longest = Math.max(longest, isBatch(item) ? length : Math.ceil(length / 8) * 8);
    }
  }
  return longest;
}

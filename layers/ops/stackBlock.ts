import type * as tf from '@tensorflow/tfjs';
import {hasKernel} from './dispatch.ts';
import type {GradientCheckpointing} from './gradientCheckpointing.ts';
import {linear} from './linear.ts';
import {loraMatMul} from './loraMatMul.ts';
import type {AnyOp} from './op.ts';
import {
  attributesOf,
  fits16BitKernels,
  type StoredFormat,
  type StoredMatrix,
  tensorsOf,
} from './storedMatrix.ts';

/** A frozen weight `[units, inputDim]`, and its low-rank path if it has one; see {@link loraMatMul}. */
export interface StackProjection {
  weight: StoredMatrix;
  lora?: {a: tf.Tensor2D; b: tf.Tensor2D; scaling: number};
}

/** The linear layers of a block, in the order in which kernels take them. */
export const PROJECTIONS = [
  'q_proj',
  'k_proj',
  'v_proj',
  'o_proj',
  'gate_proj',
  'up_proj',
  'down_proj',
] as const;

/** The weights of one decoder block, named as in Hugging Face's files. Norms are `[C]` and frozen. */
export interface StackBlock extends Record<(typeof PROJECTIONS)[number], StackProjection> {
  input_layernorm: tf.Tensor;
  post_attention_layernorm: tf.Tensor;
}

/** The options that all blocks of a stack share. */
export interface StackOptions {
  /** Number of query heads. Their size follows from the rotary tables. */
  heads: number;
  keyValueHeads: number;
  /** Epsilon of the norms. */
  epsilon: number;
  /** `[B or 1, 1, T, headDim / 2]` float32; see `rotaryEmbedding`. */
  cos: tf.Tensor4D;
  sin: tf.Tensor4D;
}

/** The options of a stack that decodes one position. */
export interface DecodeStackOptions extends StackOptions {
  /** `[B, past + 1]` int32; may be longer, for later positions. See `attention`. */
  segments?: tf.Tensor2D;
}

/** Keys and values of one block, `[B, K, capacity, D]` float32. */
export interface CachedBlock {
  keys: tf.Tensor4D;
  values: tf.Tensor4D;
}

/** A linear layer without its tensors, as a kernel sees it: rank 0 if it has no low-rank path. */
export type ProjectionAttributes = StoredFormat & {rank: number; scaling: number};

/** A stack without its tensors, as its kernels see it. */
export interface StackAttributes {
  heads: number;
  keyValueHeads: number;
  headDim: number;
  intermediateSize: number;
  epsilon: number;
  checkpointing: GradientCheckpointing;
  /** {@link PROJECTIONS} of each block in order. */
  blocks: ProjectionAttributes[][];
}

/**
 * A stack as kernels take it, in their attribute `stack`: as inputs, so many tensors would cost TensorFlow.js
 * milliseconds. All positions of a generation share one object, so that it is prepared once.
 */
export interface PreparedStack {
  attributes: StackAttributes;
  /** Tensors by names such as `3.q_proj.codes` and `3.q_proj.a`, in the order in which kernels take them. */
  tensors: tf.NamedTensorMap;
}

export function attributesOfStack(
  blocks: StackBlock[],
  {
    heads,
    keyValueHeads,
    epsilon,
    cos,
    checkpointing = false,
  }: StackOptions & {checkpointing?: GradientCheckpointing},
): StackAttributes {
  return {
    heads,
    keyValueHeads,
    headDim: 2 * (cos.shape[3] as number),
    intermediateSize: blocks[0].gate_proj.weight.rows,
    epsilon,
    checkpointing,
    blocks: blocks.map((block) => PROJECTIONS.map((name) => attributesOfProjection(block[name]))),
  };
}

export function attributesOfProjection({weight, lora}: StackProjection): ProjectionAttributes {
  return {...attributesOf(weight), rank: lora?.a.shape[0] ?? 0, scaling: lora?.scaling ?? 0};
}

/** Returns the tensors of a linear layer in the order in which kernels take them. */
export function tensorsOfProjection({weight, lora}: StackProjection): tf.NamedTensorMap {
  return {...tensorsOf(weight), ...(lora && {a: lora.a, b: lora.b})};
}

/**
 * Returns all tensors of the blocks in the order in which kernels take them, by names such as `3.q_proj.codes` and
 * `3.q_proj.a`.
 */
export function tensorsOfStack(blocks: StackBlock[]): tf.NamedTensorMap {
  const named: tf.NamedTensorMap = {};
  for (const [i, block] of blocks.entries()) {
    named[`${i}.input_layernorm`] = block.input_layernorm;
    named[`${i}.post_attention_layernorm`] = block.post_attention_layernorm;
    for (const name of PROJECTIONS) {
      for (const [key, tensor] of Object.entries(tensorsOfProjection(block[name])))
        named[`${i}.${name}.${key}`] = tensor;
    }
  }
  return named;
}

/** Whether the backend has the kernels and they take such blocks. */
export function fitsStackKernel(blocks: StackBlock[], {cos}: StackOptions, needed: AnyOp[]): boolean {
  const headDim = 2 * (cos.shape[3] as number);
  if (blocks.length === 0 || !needed.every(hasKernel) || (headDim !== 64 && headDim !== 128)) return false;
  return blocks.every((block) => PROJECTIONS.every((name) => fits16BitKernels(block[name].weight)));
}

/** Returns the output of a linear layer of a stack, `[N, units]`. */
export function projectInStack(x: tf.Tensor2D, {weight, lora}: StackProjection): tf.Tensor2D {
  return lora ? loraMatMul(x, weight, lora.a, lora.b, lora.scaling) : linear(x, weight);
}

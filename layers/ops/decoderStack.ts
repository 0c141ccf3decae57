import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {attention} from './attention.ts';
import {checkpoint} from './checkpoint.ts';
import {customGradient} from './customGradient.ts';
import {hasKernel} from './dispatch.ts';
import {isRecording} from './isRecording.ts';
import {linear} from './linear.ts';
import {loraMatMul} from './loraMatMul.ts';
import {rmsNorm} from './rmsNorm.ts';
import {rotaryEmbedding} from './rotaryEmbedding.ts';
import {attributesOf, fits16BitKernels, type StoredMatrix, tensorsOf} from './storedMatrix.ts';
import {swiGLU} from './swiGLU.ts';

/** A frozen weight `[units, inputDim]`, and the low-rank path beside it where there is one; see {@link loraMatMul}. */
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

/** The weights of one decoder block, named as in a checkpoint. Norms `[C]`, frozen. */
export interface StackBlock extends Record<(typeof PROJECTIONS)[number], StackProjection> {
  input_layernorm: tf.Tensor;
  post_attention_layernorm: tf.Tensor;
}

export interface DecoderStackOptions {
  /** Query heads. Their size is that of the rotary tables. */
  heads: number;
  keyValueHeads: number;
  /** Of the norms. */
  epsilon: number;
  /** `[B or 1, 1, T, headDim / 2]` float32; see {@link rotaryEmbedding}. */
  cos: tf.Tensor4D;
  sin: tf.Tensor4D;
  /** `[B, T]` int32; see {@link attention}. */
  segments?: tf.Tensor2D;
  /** Keep only the inputs of the blocks for backward, which runs each block again. Default false. */
  isCheckpointed?: boolean;
  /** Whether `x` gets a gradient: where it comes of frozen weights alone, none is computed. Default true. */
  isInputTrained?: boolean;
}

/**
 * The decoder blocks of a Llama with frozen weights, one after the other: `h = x + o(attention(q(n), k(n), v(n)))` with
 * `n = rmsNorm(x)`, then `h + down(silu(gate(m)) · up(m))` with `m = rmsNorm(h)`, where each linear layer is
 * {@link loraMatMul}, queries and keys are turned by their positions, and attention is causal. Touvron et al. 2023.
 *
 * A kernel computes all blocks in one op, and all gradients of the low-rank paths in another.
 *
 * @param x `[B, T, C]` float32
 * @returns `[B, T, C]` float32
 * @throws TfjsLoraError `SHAPE_MISMATCH`
 */
export function decoderStack(
  x: tf.Tensor3D,
  blocks: StackBlock[],
  options: DecoderStackOptions,
): tf.Tensor3D {
  const [batch, length, size] = x.shape;
  const {cos, sin, segments, isInputTrained = true} = options;
  assertShape('decoderStack cos', cos, [-1, 1, length, -1]);
  assertShape('decoderStack sin', sin, cos.shape);
  if (segments) assertShape('decoderStack segments', segments, [batch, length]);
  for (const {input_layernorm, q_proj} of blocks) {
    assertShape('decoderStack input_layernorm', input_layernorm, [size]);
    assertShape('decoderStack q_proj', {shape: [q_proj.weight.rows]} as tf.Tensor, [
      2 * options.heads * (cos.shape[3] as number),
    ]);
  }
  if (!fitsStackKernel(blocks, options)) return tf.tidy(() => composed(x, blocks, options));
  const trained = [...(isInputTrained ? [x] : []), ...blocks.flatMap(adapterTensors)];
  const isRecorded = isRecording() && trained.length > 0;
  const attributes = attributesOfStack(blocks, options);
  const weights = namedTensors(blocks);
  const run = (name: string, inputs: tf.NamedTensorMap, more: tf.NamedAttrMap) =>
    [tf.engine().runKernel(name, {...inputs, ...weights}, {...attributes, ...more})].flat() as tf.Tensor[];
  const tables: tf.NamedTensorMap = {cos, sin, ...(segments && {segments})};
  const forward = () => run('DecoderStack', {x, ...tables}, {isRecorded}) as [tf.Tensor3D, tf.Tensor?];
  if (!isRecorded) return tf.tidy(() => forward()[0]);
  return customGradient(
    trained,
    () => {
      const [value, saved] = forward();
      return {value, saved: [saved as tf.Tensor, ...Object.values(tables)]};
    },
    (dy, [saved, ...kept]) => {
      const given = Object.fromEntries(Object.keys(tables).map((name, i) => [name, kept[i]]));
      return run('DecoderStackGrad', {dy, saved, ...given}, {isInputTrained});
    },
  );
}

/** A linear layer as a kernel sees it, beside its tensors: rank 0 where there is no low-rank path. */
export type ProjectionAttributes = {rank: number; scaling: number} & Record<string, unknown>;

/** What kernels `DecoderStack` and `DecoderStackGrad` know of a stack beside its tensors. */
export interface DecoderStackAttributes {
  heads: number;
  keyValueHeads: number;
  headDim: number;
  intermediateSize: number;
  epsilon: number;
  isCheckpointed: boolean;
  /** {@link PROJECTIONS} of each block in order. */
  blocks: ProjectionAttributes[][];
}

function attributesOfStack(
  blocks: StackBlock[],
  {heads, keyValueHeads, epsilon, cos, isCheckpointed = false}: DecoderStackOptions,
): tf.NamedAttrMap {
  const attributes: DecoderStackAttributes = {
    heads,
    keyValueHeads,
    headDim: 2 * (cos.shape[3] as number),
    intermediateSize: blocks[0].gate_proj.weight.rows,
    epsilon,
    isCheckpointed,
    blocks: blocks.map((block) =>
      PROJECTIONS.map((name) => {
        const {weight, lora} = block[name];
        return {...attributesOf(weight), rank: lora?.a.shape[0] ?? 0, scaling: lora?.scaling ?? 0};
      }),
    ),
  };
  return attributes as unknown as tf.NamedAttrMap;
}

/** All tensors of the blocks in the order in which kernels take them, by names such as `3.q_proj.codes` and `3.q_proj.a`. */
function namedTensors(blocks: StackBlock[]): tf.NamedTensorMap {
  const named: tf.NamedTensorMap = {};
  for (const [i, block] of blocks.entries()) {
    named[`${i}.input_layernorm`] = block.input_layernorm;
    named[`${i}.post_attention_layernorm`] = block.post_attention_layernorm;
    for (const name of PROJECTIONS) {
      const {weight, lora} = block[name];
      const tensors = {...tensorsOf(weight), ...(lora && {a: lora.a, b: lora.b})};
      for (const [key, tensor] of Object.entries(tensors)) named[`${i}.${name}.${key}`] = tensor as tf.Tensor;
    }
  }
  return named;
}

/** A and B of each linear layer in the order of {@link PROJECTIONS}: what gets a gradient. */
function adapterTensors(block: StackBlock): tf.Tensor[] {
  return PROJECTIONS.flatMap((name) => {
    const {lora} = block[name];
    return lora ? [lora.a, lora.b] : [];
  });
}

/** Whether there is a kernel, and it takes blocks like these. */
function fitsStackKernel(blocks: StackBlock[], {cos}: DecoderStackOptions): boolean {
  const headDim = 2 * (cos.shape[3] as number);
  const needed = isRecording() ? ['DecoderStack', 'DecoderStackGrad'] : ['DecoderStack'];
  if (blocks.length === 0 || !needed.every(hasKernel) || (headDim !== 64 && headDim !== 128)) return false;
  return blocks.every((block) => PROJECTIONS.every((name) => fits16BitKernels(block[name].weight)));
}

function composed(x: tf.Tensor3D, blocks: StackBlock[], options: DecoderStackOptions): tf.Tensor3D {
  const {cos, sin, segments, isCheckpointed = false} = options;
  const constants = segments ? [cos, sin, segments] : [cos, sin];
  let hidden = x; // [B, T, C]
  for (const block of blocks) {
    const run = (x: tf.Tensor, cos: tf.Tensor, sin: tf.Tensor, segments?: tf.Tensor) =>
      runBlock(x as tf.Tensor3D, block, {...options, ...({cos, sin, segments} as typeof options)});
    const isLast = block === blocks.at(-1); // backward would run it again at once
    hidden =
      isCheckpointed && !isLast
        ? checkpoint(run as (...tensors: tf.Tensor[]) => tf.Tensor3D, [hidden], {
            variables: adapterTensors(block) as tf.Variable[],
            constants,
          })
        : run(hidden, cos, sin, segments);
  }
  return hidden;
}

function runBlock(
  x: tf.Tensor3D,
  block: StackBlock,
  {heads, keyValueHeads, epsilon, cos, sin, segments}: DecoderStackOptions,
): tf.Tensor3D {
  return tf.tidy(() => {
    const [batch, length, size] = x.shape;
    const rows = (y: tf.Tensor) => y.reshape([batch * length, -1]) as tf.Tensor2D;
    const split = (y: tf.Tensor, count: number) =>
      y.reshape([batch, length, count, -1]).transpose([0, 2, 1, 3]) as tf.Tensor4D; // [B, heads, T, D]

    const n = rows(rmsNorm(x, block.input_layernorm, epsilon)); // [B·T, C]
    const query = rotaryEmbedding(split(project(n, block.q_proj), heads), cos, sin);
    const key = rotaryEmbedding(split(project(n, block.k_proj), keyValueHeads), cos, sin);
    const value = split(project(n, block.v_proj), keyValueHeads);
    const attended = attention(query, key, value, {causal: true, segments}); // [B, H, T, D]
    const joined = rows(attended.transpose([0, 2, 1, 3])); // [B·T, H·D]
    const h = tf.add(rows(x), project(joined, block.o_proj)); // [B·T, C]

    const m = rmsNorm(h, block.post_attention_layernorm, epsilon) as tf.Tensor2D;
    const gated = swiGLU(project(m, block.gate_proj), project(m, block.up_proj)) as tf.Tensor2D;
    return tf.add(h, project(gated, block.down_proj)).reshape([batch, length, size]) as tf.Tensor3D;
  });
}

function project(x: tf.Tensor2D, {weight, lora}: StackProjection): tf.Tensor2D {
  return lora ? loraMatMul(x, weight, lora.a, lora.b, lora.scaling) : linear(x, weight);
}

import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {attention} from './attention.ts';
import {customGradient} from './customGradient.ts';
import {runKernel} from './dispatch.ts';
import {isSpent} from './freeSpent.ts';
import {gradientCheckpoint} from './gradientCheckpoint.ts';
import type {GradientCheckpointing} from './gradientCheckpointing.ts';
import {isRecording} from './isRecording.ts';
import {op, type Tensors} from './op.ts';
import {rmsNorm} from './rmsNorm.ts';
import {rotaryEmbedding} from './rotaryEmbedding.ts';
import {
  attributesOfStack,
  fitsStackKernel,
  PROJECTIONS,
  type PreparedStack,
  projectInStack,
  type StackBlock,
  type StackOptions,
  tensorsOfStack,
} from './stackBlock.ts';
import {swiGLU} from './swiGLU.ts';

type Tables = Tensors<'cos' | 'sin'> & {segments?: tf.TensorInfo};

/**
 * Returns the value and, while gradients are recorded, what backward needs, in an order that only the kernels know. A
 * kernel may overwrite `x` if it is spent.
 */
export const decoderStackOp = op<
  Tensors<'x'> & Tables,
  {stack: PreparedStack; isRecorded: boolean; isInputSpent: boolean},
  [value: tf.Tensor3D, ...saved: tf.Tensor[]]
>('DecoderStack');

/**
 * Returns the gradients of `x`, if it is trained, and of each A and B in turn. A kernel may overwrite `dy` if it is
 * spent.
 */
export const decoderStackGradOp = op<
  Tensors<'dy'> & Tables & {[saved: `saved${number}`]: tf.TensorInfo},
  {stack: PreparedStack; isInputTrained: boolean; isSpent: boolean},
  tf.Tensor[]
>('DecoderStackGrad');

export interface DecoderStackOptions extends StackOptions {
  /** `[B, T]` int32; see {@link attention}. */
  segments?: tf.Tensor2D;
  /** Whether backward keeps only the inputs of the blocks and runs each block again. Default false. */
  checkpointing?: GradientCheckpointing;
  /** Whether `x` gets a gradient; none is needed if only frozen weights computed it. Default true. */
  isInputTrained?: boolean;
  /** Whether nothing reads `x` later, so that a kernel may overwrite it. Default false. */
  isInputSpent?: boolean;
}

/**
 * The decoder blocks of a Llama with frozen weights, in sequence: `h = x + o(attention(q(n), k(n), v(n)))` with
 * `n = rmsNorm(x)`, then `h + down(silu(gate(m)) · up(m))` with `m = rmsNorm(h)`, where each linear layer is
 * {@link loraMatMul}, queries and keys are rotated by their positions, and attention is causal. Touvron et al. 2023.
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
  const {cos, sin, segments, isInputTrained = true, isInputSpent = false} = options;
  assertShape('decoderStack cos', cos, [-1, 1, length, -1]);
  assertShape('decoderStack sin', sin, cos.shape);
  if (segments) assertShape('decoderStack segments', segments, [batch, length]);
  for (const {input_layernorm, q_proj} of blocks) {
    assertShape('decoderStack input_layernorm', input_layernorm, [size]);
    assertShape('decoderStack q_proj', {shape: [q_proj.weight.rows]} as tf.Tensor, [
      2 * options.heads * (cos.shape[3] as number),
    ]);
  }
  if (!fitsDecoderStackKernel(blocks, options)) return tf.tidy(() => composed(x, blocks, options));
  const trained = [...(isInputTrained ? [x] : []), ...blocks.flatMap(adapterTensors)];
  const isRecorded = isRecording() && trained.length > 0;
  const stack = {attributes: attributesOfStack(blocks, options), tensors: tensorsOfStack(blocks)};
  const tables = {cos, sin, ...(segments && {segments})};
  const forward = () => runKernel(decoderStackOp, {x, ...tables}, {stack, isRecorded, isInputSpent});
  if (!isRecorded) return tf.tidy(() => forward()[0]);
  return customGradient(
    trained,
    () => {
      const [value, ...saved] = forward();
      return {value, saved: [...Object.values(tables), ...saved]};
    },
    (dy, kept) => {
      const names = Object.keys(tables);
      const named = kept.map((tensor, i) => [names[i] ?? `saved${i - names.length}`, tensor]);
      const inputs = {dy, ...Object.fromEntries(named)} as {dy: tf.Tensor; cos: tf.Tensor; sin: tf.Tensor};
      return runKernel(decoderStackGradOp, inputs, {stack, isInputTrained, isSpent: isSpent(dy)});
    },
  );
}

/** Whether a kernel computes such blocks, and their gradients if needed; otherwise {@link decoderStack} is composed. */
export function fitsDecoderStackKernel(blocks: StackBlock[], options: StackOptions): boolean {
  const needed = isRecording() ? [decoderStackOp, decoderStackGradOp] : [decoderStackOp];
  return fitsStackKernel(blocks, options, needed);
}

/** Returns A and B of each linear layer, which get a gradient, in the order of {@link PROJECTIONS}. */
function adapterTensors(block: StackBlock): tf.Tensor[] {
  return PROJECTIONS.flatMap((name) => {
    const {lora} = block[name];
    return lora ? [lora.a, lora.b] : [];
  });
}

function composed(x: tf.Tensor3D, blocks: StackBlock[], options: DecoderStackOptions): tf.Tensor3D {
  const {cos, sin, segments, checkpointing = false} = options;
  const constants = segments ? [cos, sin, segments] : [cos, sin];
  let hidden = x; // [B, T, C]
  for (const block of blocks) {
    const run = (x: tf.Tensor, cos: tf.Tensor, sin: tf.Tensor, segments?: tf.Tensor) =>
      runBlock(x as tf.Tensor3D, block, {...options, ...({cos, sin, segments} as typeof options)});
    const isLast = block === blocks.at(-1); // backward would run it again immediately
    hidden =
      checkpointing && !isLast
        ? gradientCheckpoint(run as (...tensors: tf.Tensor[]) => tf.Tensor3D, [hidden], {
            variables: adapterTensors(block) as tf.Variable[],
            constants,
            isOffloaded: checkpointing === 'offload',
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
    const query = rotaryEmbedding(split(projectInStack(n, block.q_proj), heads), cos, sin);
    const key = rotaryEmbedding(split(projectInStack(n, block.k_proj), keyValueHeads), cos, sin);
    const value = split(projectInStack(n, block.v_proj), keyValueHeads);
    const attended = attention(query, key, value, {causal: true, segments}); // [B, H, T, D]
    const joined = rows(attended.transpose([0, 2, 1, 3])); // [B·T, H·D]
    const h = tf.add(rows(x), projectInStack(joined, block.o_proj)); // [B·T, C]

    const m = rmsNorm(h, block.post_attention_layernorm, epsilon) as tf.Tensor2D;
    const gated = swiGLU(projectInStack(m, block.gate_proj), projectInStack(m, block.up_proj)) as tf.Tensor2D;
    return tf.add(h, projectInStack(gated, block.down_proj)).reshape([batch, length, size]) as tf.Tensor3D;
  });
}

import type * as tf from '@tensorflow/tfjs';
import {GroupedQueryAttention} from '../../layers/groupedQueryAttention.ts';
import {LoRADense} from '../../layers/loraDense.ts';
import {isRecording} from '../../layers/ops/isRecording.ts';
import {PROJECTIONS, type StackBlock, type StackProjection} from '../../layers/ops/stackBlock.ts';
import {callHookOf} from '../../layers/ops/tfjsInternals.ts';
import {QuantizedDense} from '../../layers/quantizedDense.ts';
import {RMSNorm} from '../../layers/rmsNorm.ts';
import {SwiGLU} from '../../layers/swiGLU.ts';
import {TiedAdapter} from '../../layers/tiedAdapter.ts';
import {TiedHead} from '../../layers/tiedHead.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import type {DecoderBlock} from './decoderBlock.ts';

type Layer = tf.layers.Layer;

/**
 * Returns the weights of decoder blocks, if the blocks compute exactly what `decoderStack` does: frozen weights without
 * bias, at most one active adapter on each, the same for all rows, no DoRA, no dropout in this pass, norms without gradient, and no subclassed
 * or hooked layer.
 *
 * @returns undefined if they compute anything else
 */
export function plainStack(blocks: DecoderBlock[], training: boolean): StackBlock[] | undefined {
  const stack: StackBlock[] = [];
  for (const block of blocks) {
    const plain = plainBlock(block, training);
    if (!plain) return undefined;
    stack.push(plain);
  }
  return stack;
}

function plainBlock(block: DecoderBlock, training: boolean): StackBlock | undefined {
  const {self_attn, mlp, input_layernorm, post_attention_layernorm} = block;
  const norms = [input_layernorm, post_attention_layernorm];
  const isPlainNorm = (norm: RMSNorm) =>
    isOf(norm, RMSNorm) && norm.offset === 0 && !(norm.weight.trainable && isRecording());
  const isKnown =
    hasPlainLayers(block) &&
    isUnchanged(block) &&
    !(training && self_attn.dropout > 0) &&
    norms.every((norm) => isPlainNorm(norm) && norm.epsilon === norms[0].epsilon);
  if (!isKnown) return undefined;
  const layerOf = (name: string) =>
    ((self_attn as unknown as Record<string, Layer>)[name] ??
      (mlp as unknown as Record<string, Layer>)[name]) as Layer;
  const projections = PROJECTIONS.map((name) => [name, plainProjection(layerOf(name), training)] as const);
  if (projections.some(([, projection]) => !projection)) return undefined;
  return {
    ...(Object.fromEntries(projections) as Record<(typeof PROJECTIONS)[number], StackProjection>),
    input_layernorm: input_layernorm.weight.read(),
    post_attention_layernorm: post_attention_layernorm.weight.read(),
  };
}

/** Whether a block has the layers of Llama, without biases. */
export function hasPlainLayers(block: DecoderBlock): boolean {
  const {self_attn, mlp} = block;
  const isAttention = isOf(self_attn, GroupedQueryAttention) && self_attn.isPlain && !self_attn.useBias;
  return Object.hasOwn(block.constructor, 'isPlain') && isAttention && isOf(mlp, SwiGLU) && !mlp.useBias;
}

/** Returns the weight of an output head, if the head only multiplies by it; see {@link plainStack}. */
export function plainHead(head: Layer): StackProjection | undefined {
  return plainProjection(head, false);
}

function plainProjection(layer: Layer, training: boolean): StackProjection | undefined {
  const adapted = isOf(layer, LoRADense) ? layer : undefined;
  const base = adapted?.base ?? layer;
  if (!isOf(base, TransposedDense) && !isOf(base, QuantizedDense) && !isOf(base, TiedHead)) return undefined;
  const {bias, activation, weight} = base;
  if (bias || (activation != null && activation !== 'linear') || !base.isPlainProduct) return undefined;
  if (adapted?.rowFactors) return undefined;
  const names = !adapted || adapted.isMerged ? [] : adapted.activeAdapters;
  if (!adapted || names.length === 0) return {weight: weight.matrix()};
  const adapter = adapted.adapter(names[0]);
  const {scaling, settings, magnitude, bias: loraBias} = adapter;
  if (names.length > 1 || magnitude || loraBias || (training && settings.dropout > 0)) return undefined;
  if (adapter instanceof TiedAdapter) return undefined; // its matrices are made in each pass
  return {weight: weight.matrix(), lora: {...adapter.factors(), scaling}};
}

/** Whether a layer is of exactly that class, and its call is not changed. */
export function isOf<T extends Layer>(layer: Layer, of: new (args: never) => T): layer is T {
  return layer.constructor === of && isUnchanged(layer);
}

/** Whether a layer's call is that of its class. */
function isUnchanged(layer: Layer): boolean {
  const isOwn = (name: string) => Object.hasOwn(layer, name);
  return callHookOf(layer) == null && !isOwn('call') && !isOwn('apply');
}

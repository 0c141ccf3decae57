import type * as tf from '@tensorflow/tfjs';
import type {ScoreSettings} from '../../../ops/attention.ts';
import type {Tensors} from '../../../ops/op.ts';
import {type ShaderDeclaration, shader} from '../device/shader.ts';

/** The arguments of attention. */
export interface AttentionCall {
  inputs: Tensors<'query' | 'key' | 'value'> & {segments?: tf.TensorInfo};
  attrs: ScoreSettings & {causal: boolean};
}

/** The arguments of the gradient. */
export interface AttentionGradCall extends AttentionCall {
  inputs: AttentionCall['inputs'] & Tensors<'dy' | 'y'> & {[extra: `extra${number}`]: tf.TensorInfo};
}

/** The settings that every attention shader depends on. */
export interface AttentionKind {
  /** Size of a head. */
  dim: number;
  causal: boolean;
  hasSegments: boolean;
  /** Whether a causal query sees only the last `u.window` positions. */
  hasWindow: boolean;
  /** Whether scores are bounded by `u.softCap`. */
  isCapped: boolean;
}

export const kindOf = ({inputs, attrs}: AttentionCall): AttentionKind => ({
  dim: inputs.query.shape[3],
  causal: attrs.causal,
  hasSegments: inputs.segments !== undefined,
  hasWindow: attrs.causal && attrs.window > 0,
  isCapped: attrs.softCap > 0,
});

/**
 * Declares an attention shader: adds `segments`, the uniforms, and WGSL that bounds scores and decides which query sees
 * which key.
 */
export const attentionShader = <
  P extends (object | boolean)[],
  D extends Omit<ShaderDeclaration, 'uniforms'>,
>(
  declare: (kind: AttentionKind, ...parameters: P) => D,
) =>
  shader((kind: AttentionKind, ...parameters: P) => {
    const own = declare(kind, ...parameters);
    return {
      ...own,
      inputs: {...(own.inputs as D['inputs']), segments: kind.hasSegments ? ('i32' as const) : undefined},
      uniforms: UNIFORMS,
      globals: `${visibility(kind)}${kind.isCapped ? CAP : ''}\n${own.globals}`,
    };
  });

const UNIFORMS = {
  heads: 'u32',
  groups: 'u32',
  length: 'u32',
  sourceLength: 'u32',
  past: 'u32',
  scale: 'f32',
  window: 'u32',
  softCap: 'f32',
} as const;

const visibility = ({dim, causal, hasSegments, hasWindow}: AttentionKind): string => `
const V = ${dim / 4}u; // vectors in a head
fn sourceOf(head: u32) -> u32 {
  return (head / u.heads * u.groups + head % u.heads / (u.heads / u.groups)) * u.sourceLength;
}
fn segmentOf(head: u32, s: u32) -> i32 {
  return ${hasSegments ? 'segments[head / u.heads * u.sourceLength + min(s, u.sourceLength - 1u)]' : '1'};
}
fn isVisible(head: u32, t: u32, s: u32, segment: i32) -> bool {
  return ${causal ? '(s <= t + u.past) & ' : ''}${hasWindow ? '(s + u.window > t + u.past) & ' : ''}${hasSegments ? '(segment != 0) & (segmentOf(head, s) == segment)' : 'true'};
}`;

/** WGSL for the first key after those that the `rows` queries from `first` on may see. */
export const endOfKeys = ({causal}: AttentionKind, first: string, rows: number): string =>
  causal ? `min(${first} + ${rows}u, u.length) + u.past` : 'u.sourceLength';

/** WGSL for the first key that queries from `first` on may see, the multiple of `step` before it. */
export const startOfKeys = ({hasWindow}: AttentionKind, first: string, step = 1): string => {
  const start = `(max(${first} + u.past + 1u, u.window) - u.window)`;
  if (!hasWindow) return '0u';
  return step === 1 ? start : `(${start} / ${step}u * ${step}u)`;
};

/** WGSL for the first query after those that may see the `rows` keys from `first` on. */
export const endOfQueries = ({hasWindow}: AttentionKind, first: string, rows: number): string =>
  hasWindow ? `min(max(${first} + ${rows}u + u.window, u.past) - u.past, u.length)` : 'u.length';

/** WGSL that bounds a number, a score, if scores have a bound. */
export const boundScore = ({isCapped}: AttentionKind, score: string): string =>
  isCapped ? `${score} = capped(vec4f(${score}), u.softCap).x;` : '';

/** WGSL for the factor on the slope of a bounded score: how fast it grows with the plain score. */
export const slopeOfBound = ({isCapped}: AttentionKind, score: string): string =>
  isCapped ? ` * slopeOfCap(vec4f(${score}), u.softCap).x` : '';

// Beyond 15, a tanh is 1 in float32, and some drivers overflow. A hidden score is far below the bound.
const CAP = `
fn capped(x: vec4f, bound: f32) -> vec4f {
  return bound * tanh(clamp(x / bound, vec4f(-15.0), vec4f(15.0)));
}
fn slopeOfCap(x: vec4f, bound: f32) -> vec4f {
  let share = max(x / bound, vec4f(-1.0));
  return vec4f(1.0) - share * share;
}`;

export function uniformsOf({inputs, attrs}: AttentionCall): Record<keyof typeof UNIFORMS, number> {
  const [, heads, length] = inputs.query.shape;
  const [, groups, sourceLength] = inputs.key.shape;
  const {scale, window, softCap} = attrs;
  return {heads, groups, length, sourceLength, past: sourceLength - length, scale, window, softCap};
}

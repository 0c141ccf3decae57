import type * as tf from '@tensorflow/tfjs';
import type {Tensors} from '../../../ops/op.ts';
import type {RowsView} from '../device/rowsView.ts';
import {type ShaderDeclaration, shader} from '../device/shader.ts';

/** The arguments of attention. */
export interface AttentionCall {
  inputs: Tensors<'query' | 'key' | 'value'> & {segments?: tf.TensorInfo};
  attrs: {scale: number; causal: boolean};
}

/** The arguments of the gradient. */
export interface AttentionGradCall extends AttentionCall {
  inputs: AttentionCall['inputs'] & Tensors<'dy' | 'y'> & {[extra: `extra${number}`]: tf.TensorInfo};
  /** With subgroup matrices, for `dy` and `y` that are packed rows; see `packSlopes`. */
  rowScales?: RowsView;
}

/** The settings that every attention shader depends on. */
export interface AttentionKind {
  /** Size of a head. */
  dim: number;
  causal: boolean;
  hasSegments: boolean;
}

export const kindOf = ({inputs, attrs}: AttentionCall): AttentionKind => ({
  dim: inputs.query.shape[3],
  causal: attrs.causal,
  hasSegments: inputs.segments !== undefined,
});

/** Declares an attention shader: adds `segments`, the uniforms, and WGSL that decides which query sees which key. */
export const attentionShader = <P extends object[], D extends Omit<ShaderDeclaration, 'uniforms'>>(
  declare: (kind: AttentionKind, ...parameters: P) => D,
) =>
  shader((kind: AttentionKind, ...parameters: P) => {
    const own = declare(kind, ...parameters);
    return {
      ...own,
      inputs: {...(own.inputs as D['inputs']), segments: kind.hasSegments ? ('i32' as const) : undefined},
      uniforms: UNIFORMS,
      globals: `${visibility(kind)}\n${own.globals}`,
    };
  });

const UNIFORMS = {
  heads: 'u32',
  groups: 'u32',
  length: 'u32',
  sourceLength: 'u32',
  past: 'u32',
  scale: 'f32',
} as const;

const visibility = ({dim, causal, hasSegments}: AttentionKind): string => `
const V = ${dim / 4}u; // vectors in a head
fn sourceOf(head: u32) -> u32 {
  return (head / u.heads * u.groups + head % u.heads / (u.heads / u.groups)) * u.sourceLength;
}
fn segmentOf(head: u32, s: u32) -> i32 {
  return ${hasSegments ? 'segments[head / u.heads * u.sourceLength + min(s, u.sourceLength - 1u)]' : '1'};
}
fn isVisible(head: u32, t: u32, s: u32, segment: i32) -> bool {
  return ${causal ? '(s <= t + u.past) & ' : ''}${hasSegments ? '(segment != 0) & (segmentOf(head, s) == segment)' : 'true'};
}`;

/** WGSL for the first key after those that the `rows` queries from `first` on may see. */
export const endOfKeys = ({causal}: AttentionKind, first: string, rows: number): string =>
  causal ? `min(${first} + ${rows}u, u.length) + u.past` : 'u.sourceLength';

export function uniformsOf({inputs, attrs}: AttentionCall): Record<keyof typeof UNIFORMS, number> {
  const [, heads, length] = inputs.query.shape;
  const [, groups, sourceLength] = inputs.key.shape;
  return {heads, groups, length, sourceLength, past: sourceLength - length, scale: attrs.scale};
}

import type * as tf from '@tensorflow/tfjs';

/** Inputs of `Attention`, and of `AttentionGrad` with the last three. */
export interface AttentionArgs {
  inputs: Record<'query' | 'key' | 'value' | 'dy' | 'y' | 'extra0', tf.TensorInfo> & {
    segments?: tf.TensorInfo;
  };
  attrs: {scale: number; causal: boolean};
  backend: unknown;
}

/** Everything that a text with the {@link preamble} depends on. */
export function textKey(name: string, {inputs, attrs}: AttentionArgs): string {
  return `${name} ${inputs.query.shape[3]} ${attrs.causal} ${inputs.segments !== undefined}`;
}

/** Bindings, uniforms, and who sees whom. Inputs are `array<vec4f>` unless they say otherwise. */
export function preamble({inputs, attrs}: AttentionArgs, outputs: string[], names: string[]): string {
  const dim = inputs.query.shape[3];
  const typed = names.map((name) => (name.includes(':') ? name : `${name}: array<vec4f>`));
  const given = inputs.segments ? [...typed, 'segments: array<i32>'] : typed;
  return `
const V = ${dim / 4}u; // vectors in a head
${outputs.map((output, i) => `@group(0) @binding(${i}) var<storage, read_write> ${output};`).join('\n')}
${given.map((input, i) => `@group(0) @binding(${outputs.length + i}) var<storage, read> ${input};`).join('\n')}
struct Uniforms { heads: u32, groups: u32, length: u32, sourceLength: u32, past: u32, scale: f32 }
@group(0) @binding(${outputs.length + given.length}) var<uniform> u: Uniforms;
fn sourceOf(head: u32) -> u32 {
  return (head / u.heads * u.groups + head % u.heads / (u.heads / u.groups)) * u.sourceLength;
}
fn segmentOf(head: u32, s: u32) -> i32 {
  return ${inputs.segments ? 'segments[head / u.heads * u.sourceLength + min(s, u.sourceLength - 1u)]' : '1'};
}
fn isVisible(head: u32, t: u32, s: u32, segment: i32) -> bool {
  return ${attrs.causal ? '(s <= t + u.past) & ' : ''}${inputs.segments ? '(segment != 0) & (segmentOf(head, s) == segment)' : 'true'};
}`;
}

export function uniformsOf({inputs, attrs}: AttentionArgs): ({u32: number} | {f32: number})[] {
  const [, heads, length] = inputs.query.shape;
  const [, groups, sourceLength] = inputs.key.shape;
  return [
    {u32: heads},
    {u32: groups},
    {u32: length},
    {u32: sourceLength},
    {u32: sourceLength - length},
    {f32: attrs.scale},
  ];
}

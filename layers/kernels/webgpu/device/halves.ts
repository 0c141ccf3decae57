/** WGSL that must come first in a shader with {@link HALVES}. */
export const HALVES_HEADER = 'enable f16;';

/**
 * WGSL that converts four float16 in two words to float32 and back. Numbers beyond float16's largest become infinite.
 * `pack2x16float` would need no feature, but some drivers round it toward zero.
 */
export const HALVES = `
fn widened(words: vec2u) -> vec4f { return vec4f(bitcast<vec4<f16>>(words)); }
fn halved(v: vec4f) -> vec2u { return bitcast<vec2u>(vec4<f16>(v)); }`;

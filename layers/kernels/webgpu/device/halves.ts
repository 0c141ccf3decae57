/**
 * WGSL that converts four float16 in two words to float32 and back, with any device: it needs no `shader-f16`. Numbers
 * beyond float16's largest become infinite.
 */
export const HALVES = `
fn widened(words: vec2u) -> vec4f { return vec4f(unpack2x16float(words.x), unpack2x16float(words.y)); }
fn halved(v: vec4f) -> vec2u { return vec2u(pack2x16float(v.xy), pack2x16float(v.zw)); }`;

import * as tf from '@tensorflow/tfjs';
import {gradientFactorOp} from '../../../ops/gradientFactor.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';

/** WGSL that ends an update before it writes anything, unless all numbers of the step are finite. */
export const UNLESS_FINITE_RETURN = 'if (factor[0] < 0.0) { return; }';

/** `GradientFactor` (layers/ops/gradientFactor.ts), in one thread. */
export const gradientFactor = kernel(gradientFactorOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {numbers} = inputs;
  const {maxNorm = Number.POSITIVE_INFINITY} = attrs;
  const clips = Number.isFinite(maxNorm);
  const factor = backend.makeTensorInfo([], 'float32');
  runShader(backend, {
    shader: factorOf(clips),
    buffers: {factor, numbers},
    uniforms: {
      count: tf.util.sizeFromShape(numbers.shape),
      ...partsOf(clips ? Math.max(maxNorm, SMALLEST) : 1),
    },
  });
  return factor as tf.Scalar;
});

const EPSILON = partsOf(1e-6);

/** Maximum norms below have the factor 0 in float32 anyway. */
const SMALLEST = 2 ** -300;

/** A shader may assume that no float is NaN or infinite, so the numbers are tested by their bits. */
const factorOf = shader((clips: boolean) => ({
  name: 'GradientFactor',
  outputs: {factor: 'f32'},
  inputs: {numbers: 'u32'},
  uniforms: {count: 'u32', high: 'u32', low: 'u32', exponent: 'i32'},
  workgroup: 1,
  globals: CLIP_FACTOR,
  body: `
  for (var i = 0u; i < u.count; i++) {
    if ((numbers[i] & 0x7f800000u) == 0x7f800000u) { factor[0] = -1.0; return; }
  }
  factor[0] = ${clips ? 'clipFactor(numbers[0])' : '1.0'};`,
}));

/**
 * Returns a number as `(high · 2³² + low) · 2^(exponent − 55)`, with 56 bits in `high` and `low`.
 *
 * @param value above 0
 */
function partsOf(value: number): {high: number; low: number; exponent: number} {
  const words = new DataView(new ArrayBuffer(8));
  words.setFloat64(0, value);
  const exponent = ((words.getUint32(0) >>> 20) & 0x7ff) - 1023;
  const scaled = (value / 2 ** exponent) * 2 ** 23;
  const high = Math.floor(scaled);
  return {high, low: (scaled - high) * 2 ** 32, exponent};
}

/**
 * Divides in integers of 64 bits, as the host does in double precision: a card's own quotient may be off by 2.5 units in
 * the last place, and training would depend on who clips.
 */
const CLIP_FACTOR = `
fn shifted(x: vec2u, by: u32) -> vec2u {
  if (by >= 64u) { return vec2u(); }
  if (by >= 32u) { return vec2u(0u, x.x >> (by - 32u)); }
  if (by == 0u) { return x; }
  return vec2u(x.x >> by, (x.x << (32u - by)) | (x.y >> by));
}

fn isBelow(x: vec2u, y: vec2u) -> bool { return x.x < y.x || (x.x == y.x && x.y < y.y); }

fn clipFactor(norm: u32) -> f32 {
  let exponent = i32(norm >> 23u) - 127;
  let unit = max(exponent, ${EPSILON.exponent});
  let large = shifted(vec2u((norm & 0x7fffffu) | 0x800000u, 0u), u32(unit - exponent));
  let small = shifted(vec2u(${EPSILON.high}u, ${EPSILON.low}u), u32(unit - (${EPSILON.exponent})));
  let low = large.y + small.y;
  let divisor = vec2u(large.x + small.x + select(0u, 1u, low < small.y), low);
  var rest = vec2u(u.high, u.low);
  var quotient = 0u; // below 2²⁷, at least 2²⁴
  for (var i = 0; i < 27; i++) {
    quotient <<= 1u;
    if (!isBelow(rest, divisor)) {
      quotient |= 1u;
      rest = vec2u(rest.x - divisor.x - select(0u, 1u, rest.y < divisor.y), rest.y - divisor.y);
    }
    rest = vec2u((rest.x << 1u) | (rest.y >> 31u), rest.y << 1u);
  }
  let surplus = 8u - countLeadingZeros(quotient);
  let power = u.exponent - unit + i32(surplus) - 3;
  if (power >= 0) { return 1.0; }
  if (power < -126) { return 0.0; }
  let bits = (u32(power + 127) << 23u) + ((quotient >> surplus) & 0x7fffffu);
  let half = 1u << (surplus - 1u);
  let beyond = quotient & (2u * half - 1u);
  let isTie = beyond == half && all(rest == vec2u());
  let roundsUp = select(beyond >= half, (bits & 1u) == 1u, isTie);
  return bitcast<f32>(bits + select(0u, 1u, roundsUp));
}`;

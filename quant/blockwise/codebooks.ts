/**
 * The numbers that codes stand for, before they are scaled by a block's largest magnitude, as in bitsandbytes.
 */

/** NormalFloat4 (QLoRA, Dettmers et al. 2023): ascending quantiles of a normal distribution; code 7 is 0. */
export const NF4_CODE: Readonly<Float32Array> = Float32Array.of(
  -1.0,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0.0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1.0,
);

/**
 * FP4: one sign bit (8), then the magnitude by code, not ascending. Codes 0 and 8 are both 0: bitsandbytes gives
 * code 8 to small positive values and code 0 to zero and small negative ones.
 */
export const FP4_CODE: Readonly<Float32Array> = Float32Array.of(
  ...[0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3].map((value) => value / 12),
);

/** Decades of the dynamic map: 10^-6 to 10^0, each with twice as many values as the one before. */
const DECADES = 7;

const dynamicMaps = new Map<boolean, Float32Array>();

/**
 * The dynamic 8-bit map: 256 ascending values, dense near 0, one decade after another (Dettmers, "8-Bit Approximations
 * for Parallelism in Deep Learning", 2015). Signed: −.993 to 1 with 0 at code 127, for what may be negative (double
 * quantization's offsets, an optimizer's first moment). Unsigned: 0 to 1 with 0 at code 0, for what may not (its
 * second moment). Every call returns the same array: do not write into it.
 */
export function dynamicMap(signed = true): Float32Array {
  let map = dynamicMaps.get(signed);
  if (map === undefined) {
    map = buildDynamicMap(signed);
    dynamicMaps.set(signed, map);
  }
  return map;
}

function buildDynamicMap(signed: boolean): Float32Array {
  const values = [0, 1];
  for (let decade = 0; decade < DECADES; decade++) {
    const count = 2 ** (signed ? decade : decade + 1);
    const scale = Math.fround(10 ** (decade - DECADES + 1));
    const boundaries = linspace(count + 1);
    for (let i = 0; i < count; i++) {
      const mean = Math.fround(Math.fround(boundaries[i] + boundaries[i + 1]) / 2);
      values.push(scale * mean);
      if (signed) values.push(-scale * mean);
    }
  }
  return Float32Array.from(values).sort();
}

/** Returns `count` even steps from 0.1 to 1 in float32, computed from both ends and rounded once each, as in torch. */
function linspace(count: number): number[] {
  const start = Math.fround(0.1);
  const step = Math.fround(Math.fround(1 - start) / (count - 1));
  return Array.from({length: count}, (_, i) =>
    Math.fround(i < count >> 1 ? start + step * i : 1 - step * (count - 1 - i)),
  );
}

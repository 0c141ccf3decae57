/** How rotary frequencies are stretched for sequences longer than those the model was first trained on. */
export type RopeScaling =
  | {type: 'linear'; factor: number}
  | {type: 'dynamic'; factor: number; originalMaxPositionEmbeddings: number}
  | {
      type: 'yarn';
      factor: number;
      originalMaxPositionEmbeddings: number;
      /** Factor on cosines and sines. */
      attentionFactor: number;
      /** Rotations within the original length above which a frequency does not change. */
      betaFast: number;
      /** Rotations within the original length below which a frequency is divided by `factor`. */
      betaSlow: number;
      /** Whether the bounds between these are whole indices. */
      truncate: boolean;
    }
  | {
      type: 'longrope';
      originalMaxPositionEmbeddings: number;
      /** Factor on cosines and sines. */
      attentionFactor: number;
      /** Divisors of the frequencies, for sequences up to the original length. */
      shortFactor: number[];
      /** Divisors of the frequencies, for longer ones. */
      longFactor: number[];
    }
  | {
      type: 'llama3';
      factor: number;
      lowFreqFactor: number;
      highFreqFactor: number;
      originalMaxPositionEmbeddings: number;
    };

const f = Math.fround;

/**
 * Returns radians per position, `[dim/2]`: `theta^(−2i/dim)`, stretched, in float32 arithmetic as in transformers'
 * `modeling_rope_utils.py`.
 *
 * @param dim number of elements that rotate
 * @param length length of the sequence, on which `dynamic` and `longrope` depend. Default 1
 */
export function ropeFrequencies(dim: number, theta: number, scaling?: RopeScaling, length = 1): Float32Array {
  const periods = (base: number) =>
    Float32Array.from({length: dim / 2}, (_, i) => f(base ** f((2 * i) / dim)));
  const plain = periods(theta).map((period) => 1 / period);
  switch (scaling?.type) {
    case undefined:
      return plain;
    case 'linear':
      return plain.map((frequency) => frequency / scaling.factor);
    case 'llama3':
      return bent(plain, scaling);
    case 'dynamic': {
      const {factor, originalMaxPositionEmbeddings: original} = scaling;
      const stretch = (factor * Math.max(length, original)) / original - (factor - 1);
      return periods(theta * stretch ** (dim / (dim - 2))).map((period) => 1 / period);
    }
    case 'longrope': {
      const {originalMaxPositionEmbeddings: original, shortFactor, longFactor} = scaling;
      const factors = length > original ? longFactor : shortFactor;
      return periods(theta).map((period, i) => 1 / f(f(factors[i]) * period));
    }
    case 'yarn':
      return ramped(periods(theta), theta, scaling);
  }
}

/** Whether the frequencies depend on the length of the sequence. */
export const dependsOnLength = (scaling?: RopeScaling): boolean =>
  scaling?.type === 'dynamic' || scaling?.type === 'longrope';

/**
 * Llama 3.1: wavelengths longer than the original context over `lowFreqFactor` are divided by `factor`, those shorter
 * than the context over `highFreqFactor` are kept, and those between are interpolated.
 */
function bent(plain: Float32Array, scaling: RopeScaling & {type: 'llama3'}): Float32Array {
  const {factor, lowFreqFactor: low, highFreqFactor: high, originalMaxPositionEmbeddings: original} = scaling;
  return plain.map((frequency) => {
    const wavelength = f((2 * Math.PI) / frequency);
    if (wavelength > original / low) return frequency / factor;
    if (wavelength < original / high) return frequency;
    const smooth = f(f(f(original / wavelength) - low) / (high - low));
    return f(f(f(1 - smooth) * frequency) / factor) + f(smooth * frequency);
  });
}

/** YaRN: a ramp over the indices between frequencies that stay and those divided by `factor`. Peng et al. 2023. */
function ramped(periods: Float32Array, theta: number, scaling: RopeScaling & {type: 'yarn'}): Float32Array {
  const {factor, originalMaxPositionEmbeddings: original, betaFast, betaSlow, truncate} = scaling;
  const dim = 2 * periods.length;
  const indexOf = (rotations: number) =>
    (dim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  const [first, last] = [indexOf(betaFast), indexOf(betaSlow)];
  const low = Math.max(truncate ? Math.floor(first) : first, 0);
  const high = Math.min(truncate ? Math.ceil(last) : last, dim - 1);
  return periods.map((period, i) => {
    const ramp = f((i - low) / (low === high ? 0.001 : high - low));
    const kept = f(1 - Math.min(Math.max(ramp, 0), 1));
    return f(f(1 / f(factor * period)) * f(1 - kept)) + f(f(1 / period) * kept);
  });
}

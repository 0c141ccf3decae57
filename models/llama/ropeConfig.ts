import type {RopeScaling} from '../../layers/ropeFrequencies.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';

type Json = Record<string, unknown>;

/**
 * Reads the rotary settings of a `config.json`: `rope_theta` and `rope_scaling`, or `rope_parameters`, which has both.
 *
 * @param maxPositionEmbeddings the original length, where no other is given
 * @param where the file, for messages
 * @throws TfjsLoraError `INVALID_CONFIG` naming the key, `UNSUPPORTED` for an unknown type
 */
export function parseRope(
  json: Json,
  maxPositionEmbeddings: number,
  where: string,
): {theta?: number; scaling?: RopeScaling} {
  const objectAt = (key: string): Json => {
    const value = json[key] ?? {};
    if (typeof value === 'object' && !Array.isArray(value)) return value as Json;
    throw new TfjsLoraError('INVALID_CONFIG', `${where} ${key}: expected an object, got ${show(value)}`);
  };
  const rope: Json = {...objectAt('rope_scaling'), ...objectAt('rope_parameters')};
  // Phi-3 has it outside, where it takes precedence.
  rope.original_max_position_embeddings =
    json.original_max_position_embeddings ?? rope.original_max_position_embeddings;
  return {
    theta: (rope.rope_theta ?? json.rope_theta) as number | undefined,
    scaling: parseScaling(rope, maxPositionEmbeddings, where),
  };
}

function parseScaling(rope: Json, maxPositionEmbeddings: number, where: string): RopeScaling | undefined {
  const type = (rope.rope_type ?? rope.type ?? 'default') as RopeScaling['type'] | 'default' | 'su';
  const number = (key: string, fallback?: number): number => {
    const value = rope[key] ?? fallback;
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} rope ${key}: expected a number above 0, got ${show(rope[key])}`,
    );
  };
  const original = (fallback?: number) => number('original_max_position_embeddings', fallback);
  switch (type) {
    case 'default':
      return undefined;
    case 'linear':
      return {type, factor: number('factor')};
    case 'dynamic':
      return {type, factor: number('factor'), originalMaxPositionEmbeddings: maxPositionEmbeddings};
    case 'llama3':
      return {
        type,
        factor: number('factor'),
        lowFreqFactor: number('low_freq_factor'),
        highFreqFactor: number('high_freq_factor'),
        originalMaxPositionEmbeddings: original(),
      };
    case 'yarn': {
      const factor = number('factor');
      const scale = (by = 1) => (factor <= 1 ? 1 : 0.1 * by * Math.log(factor) + 1);
      const isBoth = rope.mscale && rope.mscale_all_dim;
      const suggested = isBoth ? scale(number('mscale')) / scale(number('mscale_all_dim')) : scale();
      return {
        type,
        factor,
        originalMaxPositionEmbeddings: original(maxPositionEmbeddings),
        attentionFactor: number('attention_factor', suggested),
        betaFast: number('beta_fast', 32),
        betaSlow: number('beta_slow', 1),
        truncate: rope.truncate !== false,
      };
    }
    case 'longrope':
    case 'su': {
      const originalMaxPositionEmbeddings = original(maxPositionEmbeddings);
      const factor = number('factor', maxPositionEmbeddings / originalMaxPositionEmbeddings);
      const suggested =
        factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositionEmbeddings));
      return {
        type: 'longrope',
        originalMaxPositionEmbeddings,
        attentionFactor: number('attention_factor', suggested),
        shortFactor: divisors(rope, 'short_factor', where),
        longFactor: divisors(rope, 'long_factor', where),
      };
    }
    default:
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `${where} rope_type: expected default, linear, dynamic, yarn, longrope or llama3, got ${show(type)}`,
      );
  }
}

function divisors(rope: Json, key: string, where: string): number[] {
  const value = rope[key];
  if (Array.isArray(value) && value.length > 0 && value.every((each) => typeof each === 'number' && each > 0))
    return value;
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `${where} rope ${key}: expected a list of numbers above 0, got ${show(value)}`,
  );
}

/** Returns the `rope_scaling` of a `config.json`. */
export function formatRopeScaling(scaling: RopeScaling | undefined): Json | null {
  if (!scaling) return null;
  const {type, ...settings} = scaling;
  const named = Object.entries(settings)
    .filter(([key]) => !(type === 'dynamic' && key === 'originalMaxPositionEmbeddings')) // max_position_embeddings
    .map(([key, value]) => [key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), value]);
  return {rope_type: type, ...Object.fromEntries(named)};
}

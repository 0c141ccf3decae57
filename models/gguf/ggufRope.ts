import {ropeFrequencies} from '../../layers/ropeFrequencies.ts';
import type {GgufFiles} from '../../quant/gguf/ggufFiles.ts';
import type {MetadataReader} from './metadataReader.ts';
import type {GgufArchitecture} from './tensorNames.ts';
import {yarnAttentionFactor} from './yarnAttentionFactor.ts';

type Json = Record<string, unknown>;

/** How Llama 3.1 to 3.3 stretch their rotary frequencies. Only the factor differs between them. */
const LLAMA3 = {lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 8192};

/**
 * Returns the rotary settings of `config.json`. A tensor of divisors of the frequencies becomes Llama 3's scaling if it
 * is that, and the divisors of a longrope otherwise.
 */
export async function ggufRope(
  {name}: GgufArchitecture,
  metadata: MetadataReader,
  files: GgufFiles,
  headDim: number,
): Promise<Json> {
  const theta = metadata.number(`${name}.rope.freq_base`) ?? 10000;
  const scaling = await scalingOf(name, metadata, files, theta, headDim);
  const original = scaling?.rope_type === 'longrope' && {
    original_max_position_embeddings: scaling.original_max_position_embeddings,
  };
  return {rope_theta: theta, rope_scaling: scaling, ...(name === 'phi3' && original)};
}

async function scalingOf(
  name: string,
  metadata: MetadataReader,
  files: GgufFiles,
  theta: number,
  headDim: number,
): Promise<Json | null> {
  const key = (own: string) => `${name}.rope.${own}`;
  const factor = metadata.number(key('scaling.factor')) ?? metadata.number(key('scale_linear')) ?? 0;
  const scales = factor !== 0 && factor !== 1;
  const type = metadata.text(key('scaling.type')) ?? (scales ? 'linear' : 'none');
  const attentionFactor = metadata.number(key('scaling.attn_factor')) ?? 1;
  const divisors = await tensorOf(files, 'rope_freqs.weight');
  const [long, short] = [
    await tensorOf(files, 'rope_factors_long.weight'),
    await tensorOf(files, 'rope_factors_short.weight'),
  ];
  if (divisors || long || short) {
    if (type !== 'none' && type !== 'longrope')
      throw metadata.unsupported(key('scaling.type'), 'none beside a tensor of divisors', type);
    if (type === 'longrope' && scales)
      throw metadata.unsupported(key('scaling.factor'), '1 beside a tensor of divisors', factor);
    if (divisors) {
      const llama3 = attentionFactor === 1 ? llama3Of(divisors, theta, headDim) : undefined;
      return llama3 ?? longropeOf(divisors, divisors);
    }
    if (long && short) return longropeOf(long, short);
    throw metadata.unsupported(
      'rope_factors_long.weight',
      'rope_factors_short.weight beside it',
      'one alone',
    );
  }
  if (type !== 'yarn' && attentionFactor !== 1)
    throw metadata.unsupported(key('scaling.attn_factor'), `1 with ${type}`, attentionFactor);
  switch (type) {
    case 'none':
      return null;
    case 'linear':
      return scales ? {rope_type: 'linear', factor} : null;
    case 'yarn':
      return {
        rope_type: 'yarn',
        factor,
        original_max_position_embeddings: originalLength(),
        ...(attentionFactor !== 1 && {attention_factor: attentionFactor * yarnAttentionFactor(factor)}),
        beta_fast: metadata.number(key('scaling.yarn_beta_fast')),
        beta_slow: metadata.number(key('scaling.yarn_beta_slow')),
      };
    default:
      throw metadata.unsupported(
        key('scaling.type'),
        'none, linear, yarn, or longrope with its tensors',
        type,
      );
  }

  function originalLength(): number | undefined {
    return metadata.count(key('scaling.original_context_length')) ?? metadata.count(`${name}.context_length`);
  }

  function longropeOf(longFactor: Float32Array, shortFactor: Float32Array): Json {
    return {
      rope_type: 'longrope',
      original_max_position_embeddings: originalLength(),
      attention_factor: attentionFactor,
      long_factor: [...longFactor],
      short_factor: [...shortFactor],
    };
  }
}

const tensorOf = async (files: GgufFiles, name: string): Promise<Float32Array | undefined> =>
  files.tensors.has(name) ? files.loadFloat32(name) : undefined;

/** Returns Llama 3's scaling if it has these divisors. */
function llama3Of(divisors: Float32Array, theta: number, headDim: number): Json | undefined {
  if (divisors.length !== headDim / 2) return undefined;
  const factor = divisors.reduce((most, each) => Math.max(most, each), 0);
  const plain = ropeFrequencies(headDim, theta);
  const scaled = ropeFrequencies(headDim, theta, {type: 'llama3', factor, ...LLAMA3});
  if (!divisors.every((divisor, i) => Math.abs(plain[i] / scaled[i] / divisor - 1) < 1e-5)) return undefined;
  return {
    rope_type: 'llama3',
    factor,
    low_freq_factor: LLAMA3.lowFreqFactor,
    high_freq_factor: LLAMA3.highFreqFactor,
    original_max_position_embeddings: LLAMA3.originalMaxPositionEmbeddings,
  };
}

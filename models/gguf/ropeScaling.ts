import {type RopeScaling, ropeFrequencies} from '../../layers/ropeFrequencies.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {ggmlType} from '../../quant/gguf/ggmlTypes.ts';
import type {GgufTensor} from '../../quant/gguf/writeGguf.ts';
import type {GgufMetadata} from './ggufMetadata.ts';
import type {GgufModel} from './ggufModel.ts';
import type {GgufArchitecture} from './tensorNames.ts';
import {yarnAttentionFactor} from './yarnAttentionFactor.ts';

/** The stretched rotary frequencies that llama.cpp's graph of an architecture has. */
const SCALINGS: Readonly<Record<string, readonly RopeScaling['type'][]>> = {
  llama: ['linear', 'llama3', 'yarn', 'longrope'],
  smollm3: ['linear', 'yarn'],
  qwen2: ['linear', 'yarn'],
  qwen3: ['linear', 'yarn'],
  gemma2: ['linear'],
  gemma3: ['linear'],
  phi3: ['longrope'],
};

/**
 * Adds the metadata of stretched rotary frequencies; {@link ropeTensors} are the rest of them.
 *
 * @throws TfjsLoraError `UNSUPPORTED` for a scaling that llama.cpp does not have for the architecture
 */
export function addRopeScaling(metadata: GgufMetadata, {name}: GgufArchitecture, model: GgufModel): void {
  const {ropeScaling: scaling} = model.config;
  if (!scaling) return;
  const key = (part: string) => `${name}.rope.scaling.${part}`;
  const isUnknown = !SCALINGS[name].includes(scaling.type);
  if (isUnknown || (scaling.type === 'yarn' && !scaling.truncate)) {
    const got = isUnknown ? scaling.type : 'yarn with truncate false';
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `saveGguf ${model.modelType} rope_type: expected default or ${SCALINGS[name].join(', ')}, which llama.cpp's ` +
        `${name} has, got ${got}`,
    );
  }
  if (scaling.type === 'llama3') return; // its divisors are a tensor
  metadata.text(key('type'), scaling.type);
  if (scaling.type === 'linear') metadata.number(key('factor'), scaling.factor);
  if (scaling.type === 'yarn') {
    const usual = yarnAttentionFactor(scaling.factor);
    metadata
      .number(key('factor'), scaling.factor)
      .count(key('original_context_length'), scaling.originalMaxPositionEmbeddings)
      .number(key('yarn_beta_fast'), scaling.betaFast)
      .number(key('yarn_beta_slow'), scaling.betaSlow);
    if (Math.abs(scaling.attentionFactor / usual - 1) > 1e-6)
      metadata.number(key('attn_factor'), scaling.attentionFactor / usual);
  }
  if (scaling.type === 'longrope')
    metadata
      .count(key('original_context_length'), scaling.originalMaxPositionEmbeddings)
      .number(key('attn_factor'), scaling.attentionFactor);
}

/** Returns the tensors that divide rotary frequencies: those of `llama3` and `longrope`. */
export function ropeTensors({config, blocks}: GgufModel): GgufTensor[] {
  const {ropeScaling: scaling, ropeTheta, headDim} = config;
  const tensor = (name: string, divisors: ArrayLike<number>): GgufTensor => ({
    name: `${name}.weight`,
    type: ggmlType('F32'),
    shape: [divisors.length],
    data: () => Float32Array.from(divisors),
  });
  if (scaling?.type === 'longrope')
    return [
      tensor('rope_factors_long', scaling.longFactor),
      tensor('rope_factors_short', scaling.shortFactor),
    ];
  if (scaling?.type !== 'llama3') return [];
  const dim = blocks[0].self_attn.rotaryDim ?? headDim;
  const stretched = ropeFrequencies(dim, ropeTheta, scaling);
  return [
    tensor(
      'rope_freqs',
      ropeFrequencies(dim, ropeTheta).map((plain, i) => plain / stretched[i]),
    ),
  ];
}

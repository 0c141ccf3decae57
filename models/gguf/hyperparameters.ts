import {TfjsLoraError} from '../../quant/errors.ts';
import {warn} from '../../quant/warn.ts';
import {GgufMetadata} from './ggufMetadata.ts';
import type {GgufModel} from './ggufModel.ts';
import {addRopeScaling} from './ropeScaling.ts';
import type {GgufArchitecture} from './tensorNames.ts';

/** What llama.cpp's graph of an architecture does with a model's parts, where architectures differ. */
interface GraphTraits {
  /** Whether heads together have the width of the hidden states. */
  readonly fixedHeads?: boolean;
  /** Whether some layers have a window: all but each of this many. Otherwise windows are ignored. */
  readonly windowPattern?: number;
  /** Number of blocks for which the scores are divided by the root of `hiddenSize / heads`. */
  readonly blocksOf27B?: number;
  /** Which bounds the graph has: of scores, of logits. */
  readonly scoreBound?: boolean;
  readonly logitBound?: 'always' | 'optional';
  /** Each of this many blocks has no rotary positions. */
  readonly unrotated?: number;
  /** Whether a part of a head may rotate. */
  readonly partialRotary?: boolean;
  /** Whether head and embedding are always the same. */
  readonly alwaysTied?: boolean;
}

const TRAITS: Readonly<Record<string, GraphTraits>> = {
  llama: {},
  smollm3: {unrotated: 4},
  qwen2: {fixedHeads: true},
  qwen3: {},
  gemma2: {windowPattern: 2, blocksOf27B: 46, scoreBound: true, logitBound: 'always', alwaysTied: true},
  gemma3: {windowPattern: 6, blocksOf27B: 62, logitBound: 'optional'},
  phi3: {fixedHeads: true, partialRotary: true},
};

/**
 * Returns the metadata that describes a model's graph, as llama.cpp's converter writes it.
 *
 * @throws TfjsLoraError `UNSUPPORTED` for what llama.cpp's graph of the architecture does not compute
 */
export function hyperparameters(architecture: GgufArchitecture, model: GgufModel): GgufMetadata {
  const {config, blocks, logitBound} = model;
  const traits = TRAITS[architecture.name];
  assertGraph(architecture, traits, model);
  const [{self_attn: first}] = blocks;
  const key = (name: string) => `${architecture.name}.${name}`;
  const metadata = new GgufMetadata()
    .count(key('vocab_size'), config.vocabSize)
    .count(key('block_count'), config.numHiddenLayers)
    .count(key('context_length'), config.maxPositionEmbeddings)
    .count(key('embedding_length'), config.hiddenSize)
    .count(key('feed_forward_length'), config.intermediateSize)
    .count(key('attention.head_count'), config.numAttentionHeads)
    .count(key('attention.head_count_kv'), config.numKeyValueHeads)
    .count(key('attention.key_length'), config.headDim)
    .count(key('attention.value_length'), config.headDim)
    .number(key('attention.layer_norm_rms_epsilon'), config.rmsNormEps)
    .count(key('rope.dimension_count'), first.rotaryDim ?? config.headDim)
    .number(key('rope.freq_base'), config.ropeTheta)
    .number(key('rope.freq_base_swa'), config.ropeLocalBaseFreq)
    .number(key('attn_logit_softcapping'), first.softCap)
    .number(key('final_logit_softcapping'), logitBound);
  addRopeScaling(metadata, architecture, model);
  addWindow(metadata, architecture, traits, model);
  return metadata;
}

function addWindow(
  metadata: GgufMetadata,
  {name}: GgufArchitecture,
  {windowPattern}: GraphTraits,
  {blocks, config, modelType}: GgufModel,
): void {
  const windows = blocks.map(({self_attn}) => self_attn.window);
  const window = windows.find((each) => each !== undefined);
  if (windowPattern !== undefined) {
    metadata.count(`${name}.attention.sliding_window`, window ?? config.maxPositionEmbeddings);
    const isUsual = windows.every(
      (each, i) => (each !== undefined) === i % windowPattern < windowPattern - 1,
    );
    if (!isUsual && window !== undefined) {
      const isLocal = windows.map((each) => each !== undefined);
      metadata.list(`${name}.attention.sliding_window_pattern`, 'bool', isLocal);
    }
    return;
  }
  if (name === 'phi3') metadata.count(`${name}.attention.sliding_window`, window ?? 0); // 0 is how it knows Phi-4
  if (window === undefined || window >= config.maxPositionEmbeddings) return;
  warn(
    `saveGguf ${modelType} sliding_window: llama.cpp's ${name} has no windows, so that beyond ${window} tokens its ` +
      `answers differ from this model's. Run it with a context of ${window} at most.`,
  );
}

/** Refuses a graph that llama.cpp would compute differently. */
function assertGraph({name}: GgufArchitecture, traits: GraphTraits, model: GgufModel): void {
  const {config, blocks, logitBound, modelType} = model;
  const refuse = (key: string, expected: string, got: unknown): never => {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `saveGguf ${modelType} ${key}: expected ${expected} in llama.cpp's ${name}, got ${got}`,
    );
  };
  if (blocks.length !== config.numHiddenLayers)
    refuse(
      'num_hidden_layers',
      `${config.numHiddenLayers} blocks, without layer_replication,`,
      blocks.length,
    );
  const width = config.numAttentionHeads * config.headDim;
  if (traits.fixedHeads && width !== config.hiddenSize)
    refuse('head_dim', `heads of ${config.hiddenSize} elements together`, width);
  if (traits.alwaysTied && !config.tieWordEmbeddings) refuse('tie_word_embeddings', 'true', false);
  if (
    traits.logitBound === undefined ? logitBound !== undefined : traits.logitBound === 'always' && !logitBound
  )
    refuse('final_logit_softcapping', traits.logitBound ? 'a bound' : 'none', logitBound ?? 'none');
  const headWidth =
    traits.blocksOf27B === config.numHiddenLayers
      ? Math.floor(config.hiddenSize / config.numAttentionHeads)
      : config.headDim;
  for (const [i, {self_attn}] of blocks.entries()) {
    const {scale = config.headDim ** -0.5, softCap, isRotary, rotaryDim} = self_attn;
    if (Math.abs(scale * Math.sqrt(headWidth) - 1) > 1e-6)
      refuse('query_pre_attn_scalar', `${headWidth}`, Math.round(scale ** -2));
    if ((softCap !== undefined) !== (traits.scoreBound ?? false))
      refuse('attn_logit_softcapping', traits.scoreBound ? 'a bound' : 'none', softCap ?? 'none');
    const rotates = traits.unrotated === undefined || (i + 1) % traits.unrotated !== 0;
    if (isRotary !== rotates) refuse(`no_rope_layers[${i}]`, `${rotates ? 1 : 0}`, isRotary ? 1 : 0);
    if (rotaryDim !== undefined && !traits.partialRotary)
      refuse('partial_rotary_factor', '1', rotaryDim / config.headDim);
  }
  const sizes = new Set(
    blocks.map(({self_attn}) => self_attn.window).filter((window) => window !== undefined),
  );
  if (sizes.size > 1) refuse('sliding_window', 'one window', [...sizes].join(' and '));
  if (sizes.size === 0 && config.ropeLocalBaseFreq !== undefined)
    refuse('sliding_window', 'a window in some layer', 'none');
}

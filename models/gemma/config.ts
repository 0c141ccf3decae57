import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import type {Json, LlamaConfig} from '../llama/config.ts';
import {type LayerType, layerTypeOf, type SlidingConfig} from '../llama/slidingWindow.ts';

export interface GemmaConfig extends LlamaConfig, Omit<SlidingConfig, 'numHiddenLayers'> {
  /** The scores are divided by its square root. Default 256. */
  queryPreAttnScalar: number;
  /** Bound of the scores. Null: none. */
  attnLogitSoftcapping: number | null;
  /** Bound of the logits. Null: none. */
  finalLogitSoftcapping: number | null;
  /** Without `layerTypes`, one layer in this many sees all positions, and the others have a window. */
  slidingWindowPattern: number;
}

/** Default values of a Gemma config's keys, for both generations. */
export const gemmaDefaults = {
  numKeyValueHeads: 4,
  headDim: 256,
  tieWordEmbeddings: true,
  queryPreAttnScalar: 256,
  slidingWindow: 4096,
  layerTypes: null,
};

/** Returns the type of a layer: by default, the last of each `slidingWindowPattern` sees all positions. */
export const gemmaLayerType = (config: GemmaConfig, layerIndex: number): LayerType =>
  layerTypeOf(config, layerIndex, (index) =>
    (index + 1) % config.slidingWindowPattern === 0 ? 'full_attention' : 'sliding_attention',
  );

/** Refuses settings of a Gemma config that the graph does not support. */
export function assertCausal(json: Json, where: string): void {
  if (!json.use_bidirectional_attention) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${where} use_bidirectional_attention: expected false, got ${show(json.use_bidirectional_attention)}`,
  );
}

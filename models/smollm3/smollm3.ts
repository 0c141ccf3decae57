import * as tf from '@tensorflow/tfjs';
import type {GroupedQueryAttention, GroupedQueryAttentionArgs} from '../../layers/groupedQueryAttention.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import type {LlamaConfig} from '../llama/config.ts';
import {DecoderBlock} from '../llama/decoderBlock.ts';
import {LlamaForCausalLM} from '../llama/llama.ts';
import {layerTypeOf, type SlidingConfig, windowOf} from '../llama/slidingWindow.ts';
import {presets} from './presets.ts';

export interface SmolLM3Config extends LlamaConfig, Omit<SlidingConfig, 'numHiddenLayers'> {
  /** Whether layers may have a window. Default false. */
  useSlidingWindow: boolean;
  /** For each layer, 1 if its queries and keys rotate by their position. Null: by `noRopeLayerInterval`. */
  noRopeLayers: number[] | null;
  /** The last of every group of this many layers has no rotation. Default 4. */
  noRopeLayerInterval: number;
}

/** A block of Llama. In some layers, queries and keys do not rotate: they know no position (NoPE). */
class SmolLM3DecoderBlock extends DecoderBlock {
  static override className = 'SmolLM3DecoderBlock';
  static override readonly isPlain = true;

  protected override createAttention(args: GroupedQueryAttentionArgs): GroupedQueryAttention {
    const config = this.config as SmolLM3Config;
    const isRotary = hasRotation(config, this.layerIndex);
    const type = layerTypeOf(config, this.layerIndex, () =>
      isRotary ? 'full_attention' : 'sliding_attention',
    );
    const isSliding = config.useSlidingWindow && type === 'sliding_attention';
    return super.createAttention({...args, isRotary, window: isSliding ? windowOf(config) : undefined});
  }
}
tf.serialization.registerClass(SmolLM3DecoderBlock);

function hasRotation({noRopeLayers, noRopeLayerInterval}: SmolLM3Config, layerIndex: number): boolean {
  if (noRopeLayers === null) return (layerIndex + 1) % noRopeLayerInterval !== 0;
  const flag = Array.isArray(noRopeLayers) ? noRopeLayers[layerIndex] : undefined;
  if (flag === 0 || flag === 1) return flag === 1;
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `config no_rope_layers: expected 0 or 1 for layer ${layerIndex}, got ${show(flag)}`,
  );
}

/** SmolLM3: a Llama in which every fourth layer has no rotary positions. */
export class SmolLM3ForCausalLM extends LlamaForCausalLM {
  static override className = 'SmolLM3ForCausalLM';
  static override readonly modelType = 'smollm3';
  static override readonly architecture = 'SmolLM3ForCausalLM';
  static override readonly configDefaults = {
    numKeyValueHeads: 4,
    maxPositionEmbeddings: 32768,
    ropeTheta: 2e6,
    tieWordEmbeddings: true,
    useSlidingWindow: false,
    slidingWindow: null,
    layerTypes: null,
    noRopeLayers: null,
    noRopeLayerInterval: 4,
  };
  static override readonly presets = presets;
  static override readonly blockClass = SmolLM3DecoderBlock;
  declare readonly config: SmolLM3Config;
}

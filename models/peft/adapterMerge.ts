import {type AdaptedLayer, MERGE_OPTIONS, type MergeOptions} from '../../layers/adaptedLayer.ts';
import {walk} from '../../layers/moduleLayer.ts';
import {TiedHead} from '../../layers/tiedHead.ts';
import type {TransposedDense} from '../../layers/transposedDense.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import {LAYER_WATCH_OPTIONS, type LayerWatch} from '../layerWatch.ts';
import {type LayeredModel, replaceLayer} from '../replaceLayer.ts';
import {adaptedLayers} from './adaptableLayers.ts';
import {trainBiasesOf} from './trainedBiases.ts';

/** Options for merging adapters. A merge blocks the event loop, so only `onProgress` can abort it. */
export interface MergeAdaptersOptions extends MergeOptions, LayerWatch {}
export const MERGE_ADAPTERS_OPTIONS = {
  ...MERGE_OPTIONS,
  ...LAYER_WATCH_OPTIONS,
} satisfies OptionNames<MergeAdaptersOptions>;

/** Merges the active adapters of a model into its base, for a while or permanently. */
export class AdapterMerge {
  /** The tied head that a table of its own replaces while adapters are merged. */
  private untied?: {tied: TiedHead; dense: TransposedDense};

  constructor(private readonly model: LayeredModel) {}

  get isMerged(): boolean {
    return this.layers.some(({isMerged}) => isMerged);
  }

  /** Merges the active adapters in all layers that are not merged yet, or in none of them. */
  merge(options: MergeAdaptersOptions = {}): void {
    assertKnownOptions('mergeLoRA', options, MERGE_ADAPTERS_OPTIONS);
    const {onProgress, signal, ...merging} = options;
    if (this.model.replication) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        'mergeLoRA: expected layers with weights of their own, got replicated ones, which share theirs: each update would ' +
          'go into all of them. Save the adapter instead; PEFT refuses this too.',
      );
    }
    const {layers} = this;
    if (layers.every(({activeAdapters}) => activeAdapters.length === 0)) {
      throw new TfjsLoraError(
        'UNKNOWN_ADAPTER',
        'mergeLoRA: expected an active adapter, got none. Call applyLoRA or loadAdapter first.',
      );
    }
    const added: AdaptedLayer[] = [];
    try {
      for (const [index, layer] of layers.entries()) {
        signal?.throwIfAborted();
        if (!layer.isMerged) {
          added.push(layer);
          layer.merge(merging);
        }
        onProgress?.({layer: layer.name, done: index + 1, total: layers.length});
      }
      this.untie();
    } catch (error) {
      for (const layer of added) layer.unmerge();
      throw error;
    }
  }

  unmerge(): void {
    for (const layer of this.layers) layer.unmerge();
    if (!this.untied) return;
    const {tied, dense} = this.untied;
    replaceLayer(this.model, dense, tied);
    dense.disposeWeights();
    this.untied = undefined;
  }

  /** Merges permanently: the layers are plain ones again. */
  fuse(options?: MergeAdaptersOptions): void {
    this.merge(options);
    this.untied = undefined; // the head keeps its own table
    trainBiasesOf(this.model.layers, []);
    for (const layer of this.layers) replaceLayer(this.model, layer, layer.fuse());
  }

  /** Gives a tied head its table from before the merge, if the merge changed the embedding alone. */
  private untie(): void {
    const merged = this.layers.filter(({isMerged}) => isMerged);
    for (const tied of walk(this.model.layers)) {
      if (!(tied instanceof TiedHead) || !merged.some(({original}) => original === tied.embedding)) continue;
      this.untied = {tied, dense: replaceLayer(this.model, tied, tied.untied())};
    }
  }

  private get layers() {
    return [...adaptedLayers(this.model.layers).values()];
  }
}

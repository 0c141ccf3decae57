import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';

/** Which positions a layer's queries see: all before their own, or only those of a window. */
export type LayerType = 'full_attention' | 'sliding_attention';

/** The keys of a config that give layers a window. */
export interface SlidingConfig {
  readonly numHiddenLayers: number;
  /** Number of positions that a query sees at most, its own included. Null: all. */
  readonly slidingWindow: number | null;
  /** The type of each layer. Null: by the family's own rule. */
  readonly layerTypes: LayerType[] | null;
}

/**
 * Returns the type of a layer.
 *
 * @param rule the family's own rule, for a config that lists no types
 * @throws TfjsLoraError `INVALID_CONFIG` unless the config lists one type per layer
 */
export function layerTypeOf(
  {layerTypes, numHiddenLayers}: SlidingConfig,
  layerIndex: number,
  rule: (layerIndex: number) => LayerType,
): LayerType {
  if (!layerTypes) return rule(layerIndex);
  const type = Array.isArray(layerTypes) ? layerTypes[layerIndex] : undefined;
  if ((type === 'full_attention' || type === 'sliding_attention') && layerTypes.length >= numHiddenLayers)
    return type;
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `config layer_types: expected full_attention or sliding_attention for each of ${numHiddenLayers} layers, ` +
      `got ${show(layerTypes)}`,
  );
}

/**
 * Returns the window of a layer with sliding attention; undefined if it has none.
 *
 * @throws TfjsLoraError `INVALID_CONFIG` for a window that is no positive integer
 */
export function windowOf({slidingWindow}: Pick<SlidingConfig, 'slidingWindow'>): number | undefined {
  if (slidingWindow === null) return undefined;
  if (Number.isInteger(slidingWindow) && slidingWindow > 0) return slidingWindow;
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `config sliding_window: expected a positive integer or null, got ${show(slidingWindow)}`,
  );
}

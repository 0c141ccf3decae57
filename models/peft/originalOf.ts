import {AdaptedLayer} from '../../layers/adaptedLayer.ts';
import type {ModuleLayer} from '../../layers/moduleLayer.ts';

/** Returns a layer itself, or the one that it adapts. */
export const originalOf = (layer: ModuleLayer): ModuleLayer =>
  layer instanceof AdaptedLayer ? layer.original : layer;

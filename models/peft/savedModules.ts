import type * as tf from '@tensorflow/tfjs';
import {AdaptedLayer} from '../../layers/adaptedLayer.ts';
import {CopiedLayer} from '../../layers/copiedLayer.ts';
import {ModuleLayer} from '../../layers/moduleLayer.ts';
import {TiedHead} from '../../layers/tiedHead.ts';
import {ValueHead} from '../../layers/valueHead.ts';
import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import type {LayeredModel} from '../replaceLayer.ts';
import {tiedPair} from './tiedPair.ts';

/**
 * Returns whether PEFT's `modules_to_save` keeps adapters off a module: it names the module or one around it.
 *
 * @param modules names or their ends
 */
export function isSaved(modules: readonly string[] = []): (name: string) => boolean {
  const within = modules.map((module) => `.${module}.`);
  return (name) => within.some((part) => `.${name}.`.includes(part));
}

/**
 * Returns the layers that an adapter copies whole, or ties to a copy: those with weights that PEFT's `modules_to_save`
 * names, by themselves or by a layer around them. A name stands for every layer whose name ends so, even within a word
 * (`norm` is also `input_layernorm`), as in PEFT.
 *
 * @param allowForeign whether a name may match nothing, as in PEFT, and not be a typo
 * @throws TfjsLoraError `UNKNOWN_TARGET` for a name without a match; `UNSUPPORTED` for a layer with adapters of another
 *   kind, and for a Keras model
 */
export function savedModules(
  {modulesToSave = [], ensureWeightTying}: {modulesToSave?: string[]; ensureWeightTying?: boolean},
  {layers, lm_head}: LayeredModel,
  allowForeign: boolean,
): ModuleLayer[] {
  if (modulesToSave.length > 0 && !lm_head) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `LoRA modulesToSave: expected none for a Keras model, whose other layers are not ours to copy, got ${modulesToSave.join(', ')}`,
    );
  }
  const named = namedModules(modulesToSave, modulesOf(layers), allowForeign);
  const tied = ensureWeightTying ? tiedPair(layers, named) : undefined;
  return tied ? [...new Set([...named, tied.embedding, tied.head])] : named;
}

function namedModules(modules: readonly string[], all: ModuleLayer[], allowForeign: boolean): ModuleLayer[] {
  const found = new Set<ModuleLayer>();
  for (const module of modules) {
    const named = all.filter(({name}) => name.endsWith(module));
    if (named.length === 0 && !allowForeign) {
      const parts = all.flatMap(({name}) => [name, name.slice(name.lastIndexOf('.') + 1)]);
      throw new TfjsLoraError(
        'UNKNOWN_TARGET',
        `LoRA modulesToSave ${show(module)}: expected the end of a layer's name, got no match. ` +
          `Nearest: ${nearestNames(module, parts, 3).join(', ')}.`,
      );
    }
    for (const outer of named) {
      const inside = all.filter(({name}) => name === outer.name || name.startsWith(`${outer.name}.`));
      for (const layer of inside) if (hasWeights(layer)) found.add(layer);
    }
  }
  for (const layer of found) {
    if (!(layer instanceof AdaptedLayer) || layer instanceof CopiedLayer) continue;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `LoRA modulesToSave ${layer.name}: expected a layer without adapters of another kind, got one with ` +
        `${[...layer.adapters.keys()].join(', ')}. PEFT refuses this too.`,
    );
  }
  return all.filter((layer) => found.has(layer));
}

const hasWeights = (layer: ModuleLayer): boolean =>
  layer.parameters.size > 0 || layer instanceof TiedHead || layer instanceof AdaptedLayer;

/** Returns our layers and their sub-layers, except those inside an adapted layer, which stands for them. */
export function modulesOf(layers: readonly tf.layers.Layer[]): ModuleLayer[] {
  return layers.flatMap((layer) => {
    if (!(layer instanceof ModuleLayer) || layer instanceof ValueHead) return [];
    if (layer instanceof AdaptedLayer) return [layer];
    return [layer, ...modulesOf(layer.sublayers.map(([, inner]) => inner))];
  });
}

import {CopiedLayer} from '../../layers/copiedLayer.ts';
import {LayerCopy} from '../../layers/layerCopy.ts';
import type {LoRAAdapter} from '../../layers/loraAdapter.ts';
import {LoRADense} from '../../layers/loraDense.ts';
import {LoRAEmbedding} from '../../layers/loraEmbedding.ts';
import type {ModuleLayer} from '../../layers/moduleLayer.ts';
import type {TiedHead} from '../../layers/tiedHead.ts';
import {TokenEmbedding} from '../../layers/tokenEmbedding.ts';
import {TokenRows} from '../../layers/tokenRows.ts';
import {TokenRowsLayer} from '../../layers/tokenRowsLayer.ts';
import type {TransposedDense} from '../../layers/transposedDense.ts';
import {type LayeredModel, replaceLayer} from '../replaceLayer.ts';
import {adaptedLayers, isLowRank} from './adaptableLayers.ts';
import type {AdapterPlan} from './adapterPlan.ts';
import {originalOf} from './originalOf.ts';
import {freezeBase} from './rememberTraining.ts';
import {tiedPair} from './tiedPair.ts';
import type {TokenPlan} from './tokenPlans.ts';

/**
 * Puts a new adapter into the layers of a model, and freezes the base.
 *
 * @throws TfjsLoraError `UNSUPPORTED` for a layer that cannot be copied, with nothing changed
 */
export function placeAdapter(model: LayeredModel, plan: AdapterPlan): void {
  const copies = copiesOf(model, plan);
  freezeBase(model.layers);
  const {adapterName, layerClass = LoRADense} = plan.options;
  for (const {layer, args} of plan.updates) {
    const wrapped = () =>
      layer instanceof TokenEmbedding ? new LoRAEmbedding(layer) : layerClass.fromDense(layer);
    const adapted = isLowRank(layer) ? layer : replaceLayer(model, layer, wrapped() as LoRADense);
    if (layer.name === plan.tied?.head.name) {
      const embedding = adaptedLayers(model.layers).get(plan.tied.embedding.name)!;
      (adapted as LoRADense).tieAdapter(embedding.adapter(adapterName) as LoRAAdapter, args);
    } else adapted.addAdapter(adapterName, args);
  }
  for (const [layer, copy] of copies) {
    const copied = layer instanceof CopiedLayer ? layer : replaceLayer(model, layer, new CopiedLayer(layer));
    copied.addCopy(copy);
  }
  for (const tokens of plan.tokens) addTokens(model, adapterName, tokens);
}

/** Copies layers for a new adapter. Nothing is kept if one cannot be copied. */
function copiesOf(model: LayeredModel, {saved, options}: AdapterPlan): Map<ModuleLayer, LayerCopy> {
  const copies = new Map<ModuleLayer, LayerCopy>();
  const tied = options.ensureWeightTying ? tiedPair(model.layers, saved) : undefined;
  try {
    for (const layer of saved)
      if (layer !== tied?.head) copies.set(layer, LayerCopy.of(options.adapterName, originalOf(layer)));
  } catch (error) {
    for (const copy of copies.values()) copy.dispose();
    throw error;
  }
  if (tied)
    copies.set(tied.head, LayerCopy.tied(originalOf(tied.head) as TiedHead, copies.get(tied.embedding)!));
  return copies;
}

function addTokens(model: LayeredModel, name: string, {layer, indices, tiedTo}: TokenPlan): void {
  const embedding = tiedTo && (adaptedLayers(model.layers).get(tiedTo.name) as TokenRowsLayer);
  const base = originalOf(layer) as TokenEmbedding | TransposedDense;
  const wrapped =
    layer instanceof TokenRowsLayer ? layer : replaceLayer(model, layer, new TokenRowsLayer(base, embedding));
  wrapped.addRows(embedding?.adapter(name).tied() ?? TokenRows.of(name, layer.name, indices, base.weight));
}

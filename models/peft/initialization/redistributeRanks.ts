import {replaceLayer} from '../../replaceLayer.ts';
import {isLowRank} from '../adaptableLayers.ts';
import type {AdapterSet} from '../adapterSet.ts';
import {commonSettings, type LoRAOptions, peftFields} from '../loraOptions.ts';
import {layersWithTrainedBias, trainBiasesOf} from '../trainedBiases.ts';

/**
 * Gives the layers of the only adapter other ranks. A layer of rank 0 is adapted no more; the matrices of the others
 * start again where the rank changes.
 *
 * @param keepsScale whether alphas change with the ranks
 */
export function redistributeRanks(
  adapters: AdapterSet,
  name: string,
  ranks: ReadonlyMap<string, number>,
  keepsScale: boolean,
): void {
  const {model} = adapters;
  const options = adapters.options(name);
  const {rank: common, alpha: commonAlpha} = commonSettings(options);
  const [rankPattern, alphaPattern]: Record<string, number>[] = [{}, {}];
  for (const [layerName, layer] of adapters.lowRank()) {
    const rank = ranks.get(layerName);
    if (rank === undefined) continue;
    const {settings, weight, isTrainableAlone: trainable} = layer.adapter(name);
    if (rank === 0) {
      layer.removeAdapter(name);
      replaceLayer(model, layer, layer.fuse());
      continue;
    }
    const alpha = keepsScale ? (settings.alpha * rank) / settings.rank : settings.alpha;
    if (rank !== settings.rank) {
      const {activeAdapters} = layer;
      layer.removeAdapter(name);
      Object.assign(layer.addAdapter(name, {...settings, rank, alpha}), {weight, trainable});
      layer.activeAdapters = activeAdapters;
    }
    if (rank !== common) rankPattern[layerName] = rank;
    if (alpha !== commonAlpha) alphaPattern[layerName] = alpha;
  }
  const targetModules = [...adapters.layers().values()]
    .filter((layer) => layer.adapters.has(name) && isLowRank(layer))
    .map((layer) => layer.name);
  const changed: LoRAOptions = {
    targetModules,
    rankPattern,
    alphaPattern,
    excludeModules: undefined,
    layersToTransform: undefined,
    layersPattern: undefined,
    targetParameters: undefined,
  };
  const loaded = adapters.loadedFrom(name);
  const keys = peftFields().filter((field) => field.name in changed);
  const inFile = keys.map((field) => [field.key, changed[field.name as keyof LoRAOptions] ?? null]);
  adapters.replace(
    name,
    {...options, ...changed},
    loaded && {...loaded, config: {...loaded.config, ...Object.fromEntries(inFile)}},
  );
  const biases = layersWithTrainedBias(model.layers, name, options.bias);
  trainBiasesOf(
    model.layers,
    biases.filter(({trainsBiasAlone}) => trainsBiasAlone),
  );
}

import {replaceLayer} from '../../replaceLayer.ts';
import {isLowRank} from '../adaptableLayers.ts';
import type {AdapterSet} from '../adapterSet.ts';
import {commonSettings} from '../loraOptions.ts';
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
    const {settings} = layer.adapter(name);
    if (rank === 0) {
      layer.removeAdapter(name);
      replaceLayer(model, layer, layer.fuse());
      continue;
    }
    const alpha = keepsScale ? (settings.alpha * rank) / settings.rank : settings.alpha;
    if (rank !== settings.rank) {
      layer.removeAdapter(name);
      layer.addAdapter(name, {...settings, rank, alpha});
    }
    if (rank !== common) rankPattern[layerName] = rank;
    if (alpha !== commonAlpha) alphaPattern[layerName] = alpha;
  }
  const targetModules = [...adapters.layers().values()]
    .filter((layer) => layer.adapters.has(name) && isLowRank(layer))
    .map((layer) => layer.name);
  const {
    excludeModules: _,
    layersToTransform: __,
    layersPattern: ___,
    targetParameters: ____,
    ...kept
  } = options;
  const loadedFrom = adapters.loadedFrom(name);
  adapters.replace(name, {...kept, targetModules, rankPattern, alphaPattern}, loadedFrom);
  const biases = layersWithTrainedBias(model.layers, name, kept.bias);
  trainBiasesOf(
    model.layers,
    biases.filter(({trainsBiasAlone}) => trainsBiasAlone),
  );
}

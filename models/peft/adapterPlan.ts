import {AdaptedLayer} from '../../layers/adaptedLayer.ts';
import {DEFAULT_ADAPTER} from '../../layers/adapter.ts';
import {LoRAAdapter} from '../../layers/loraAdapter.ts';
import {LoRADense, type LoRADenseClass} from '../../layers/loraDense.ts';
import {assertLoRAArgs, type LoRAAdapterArgs} from '../../layers/loraFields.ts';
import type {ModuleLayer} from '../../layers/moduleLayer.ts';
import {TokenEmbedding} from '../../layers/tokenEmbedding.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {warn} from '../../quant/warn.ts';
import type {LayeredModel} from '../replaceLayer.ts';
import {type Adaptable, adaptableLayers, targetCandidates} from './adaptableLayers.ts';
import {assertPatternsMatch, layerArgs} from './layerArgs.ts';
import {commonSettings, type LoRAOptions} from './loraOptions.ts';
import {savedModules} from './savedModules.ts';
import {matchParameters, matchTargets} from './targetModules.ts';
import {type TiedPair, tiedPair} from './tiedPair.ts';
import {type TokenPlan, tokenPlans} from './tokenPlans.ts';
import {wrongOption} from './wrongOption.ts';

/** The changes that a new adapter makes to the layers of a model. */
export interface AdapterPlan {
  /** The options, with defaults for the rank, the targets and the name. */
  options: LoRAOptions & {adapterName: string};
  /** The layers that get a low-rank update, with its settings. */
  updates: {layer: Adaptable; args: LoRAAdapterArgs}[];
  /** The head among them that uses the update of the embedding. */
  tied?: TiedPair;
  /** The layers that train whole, as copies. */
  saved: ModuleLayer[];
  /** The layers in which rows of tokens train. */
  tokens: TokenPlan[];
}

/**
 * Plans a new adapter, and checks that its options fit the model.
 *
 * @param isLoaded whether the options are from a file, which may name modules of another model, as in PEFT
 */
export function adapterPlan(model: LayeredModel, options: LoRAOptions, isLoaded: boolean): AdapterPlan {
  const {adapterName = DEFAULT_ADAPTER, layerClass = LoRADense, ensureWeightTying} = options;
  const {fields} = layerClass.adapterClass;
  const {targetParameters = [], layersToTransform} = options;
  const {targetModules = targetParameters.length > 0 ? [] : 'all-linear'} = options;
  const candidates = targetCandidates(model);
  const byParameter = matchParameters(targetParameters, candidates, options);
  const namesNone = Array.isArray(targetModules) && targetModules.length === 0;
  const byModule =
    byParameter.length > 0 && namesNone
      ? []
      : matchTargets(targetModules, candidates, layersToTransform, {...options, allowForeign: isLoaded});
  const twice = byParameter.find((name) => byModule.includes(name));
  if (twice !== undefined)
    throw wrongOption('targetParameters', 'layers that targetModules leaves out', twice);
  const saved = savedModules(options, model, isLoaded);
  const layers = adaptableLayers(model.layers);
  const tied =
    ensureWeightTying && saved.length === 0
      ? tiedPair(
          model.layers,
          byModule.map((name) => layers.get(name)!),
        )
      : undefined;
  const named = byModule.filter((name) => name !== tied?.head.name && name !== tied?.embedding.name);
  const modules = tied ? [tied.embedding.name, ...named, tied.head.name] : byModule;
  const argsFor = layerArgs(options, fields);
  const updates = [
    ...modules.map((name) => ({layer: layers.get(name)!, args: argsFor(name)})),
    ...byParameter.map((name) => ({layer: layers.get(name)!, args: argsFor(`${name}.weight`)})),
  ];
  if (!isLoaded) assertPatternsMatch(options, [...byModule, ...byParameter.map((name) => `${name}.weight`)]);
  for (const {layer, args} of updates) {
    if (layer instanceof LoRADense) assertSameKind(adapterName, layer, options.layerClass);
    const {base} = layer instanceof AdaptedLayer ? layer : {base: layer};
    if (base instanceof TokenEmbedding) assertFitsEmbedding(layer.name, layerClass);
    const shape =
      base instanceof TokenEmbedding ? [base.hiddenSize, base.vocabSize] : [base.units, base.inputDim];
    assertLoRAArgs(args, layer.name, shape, fields);
  }
  const taken = [...updates.map(({layer}) => layer), ...saved].map(({name}) => name);
  const tokens = tokenPlans(options, model, taken);
  const hasTied = tied || tiedPair(model.layers, saved) || tokens.some(({tiedTo}) => tiedTo);
  if (ensureWeightTying && !hasTied) {
    warn(
      'LoRA ensureWeightTying: expected the embedding, or a head that is tied to it, among modulesToSave, targetModules or tokens, got neither. ' +
        'It has no effect.',
    );
  }
  const {rank} = commonSettings(options, fields);
  return {options: {...options, rank, targetModules, adapterName}, updates, tied, saved, tokens};
}

/** Refuses adapters of a class of their own for an embedding. */
function assertFitsEmbedding(name: string, {adapterClass}: LoRADenseClass): void {
  if (adapterClass.peftType === LoRAAdapter.peftType) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `LoRA target ${name}: expected a linear layer for adapters of ${adapterClass.peftType}, got an embedding`,
  );
}

/**
 * Refuses an adapter for a layer whose adapters are of another kind.
 *
 * @param wanted the layer class that was asked for. Default: any whose adapters are LoRA's
 */
function assertSameKind(adapterName: string, layer: LoRADense, wanted: LoRADenseClass | undefined): void {
  const {adapterClass, name: className} = wanted ?? LoRADense;
  const isKind = layer.adapterClass.peftType === adapterClass.peftType;
  if (isKind && (wanted === undefined || layer instanceof wanted)) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `adapter "${adapterName}" of ${layer.name}: expected a layer without adapters or a ${className}, got a ` +
      `${layer.constructor.name} with ${[...layer.adapters.keys()].join(', ')}. Delete these adapters first.`,
  );
}

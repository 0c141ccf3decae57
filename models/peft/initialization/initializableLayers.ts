import {LoRAAdapter} from '../../../layers/loraAdapter.ts';
import type {LoRADense} from '../../../layers/loraDense.ts';
import {QuantizedDense} from '../../../layers/quantizedDense.ts';
import {TiedAdapter} from '../../../layers/tiedAdapter.ts';
import {TiedHead} from '../../../layers/tiedHead.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {AdapterSet} from '../adapterSet.ts';
import {changesBase} from './changesBase.ts';
import {assertGradientRank} from './loraGA.ts';

/** Returns the linear layers with an adapter. */
export const layersOf = (adapters: AdapterSet, adapterName: string): LoRADense[] =>
  [...adapters.lowRank().values()].filter((layer) => layer.adapters.has(adapterName));

/**
 * Returns the linear layers with an adapter, which a method can initialize.
 *
 * @throws TfjsLoraError `UNSUPPORTED`
 */
export function initializableLayers(adapters: AdapterSet, adapterName: string, method: string): LoRADense[] {
  const layers = layersOf(adapters, adapterName);
  for (const layer of layers) assertInitializable(layer, adapterName, method);
  return layers;
}

/** Refuses a layer whose base or whose other adapters the method would spoil. */
function assertInitializable(layer: LoRADense, adapterName: string, method: string): void {
  const where = `${method} for adapter "${adapterName}" of ${layer.name}`;
  const refuse = (expected: string, got: string) =>
    new TfjsLoraError('UNSUPPORTED', `${where}: expected ${expected}, got ${got}`);
  const {peftType} = layer.adapterClass;
  if (peftType !== LoRAAdapter.peftType) throw refuse('an adapter of LoRA', peftType);
  if (layer.isMerged) throw refuse('unmerged weights', 'merged ones. Call unmergeLoRA() first.');
  if (layer.base instanceof TiedHead && changesBase(method))
    throw refuse('a head with a table of its own, because the base changes', 'one that the embedding shares');
  if (layer.base instanceof QuantizedDense && method !== 'orthogonal' && method !== 'eva') {
    const advice = 'Load the model unquantized, and call quantize() afterwards.';
    throw refuse('a base that is not quantized', `${layer.base.weight.quantType}. ${advice}`);
  }
  const others = [...layer.adapters.keys()].filter((name) => name !== adapterName);
  if (changesBase(method) && others.length > 0)
    throw refuse('no other adapter, because the base changes', `${others.join(', ')}. Delete them first.`);
  const adapter = layer.adapter(adapterName);
  if (adapter instanceof TiedAdapter)
    throw refuse(
      'an adapter with matrices of its own',
      "one that shares the embedding's (ensureWeightTying)",
    );
  const {rank, freezeB, loraBias} = adapter.settings;
  if (loraBias) throw refuse('an adapter without loraBias', 'one with it');
  if (method === 'mica' && !freezeB)
    throw refuse('applyLoRA({freezeB: true}), because only A trains', 'freezeB: false');
  if (method === 'lora_ga') assertGradientRank(rank, [layer.base.units, layer.base.inputDim], layer.name);
  if (method === 'orthogonal' && rank % 2 !== 0) throw refuse('an even rank', String(rank));
}

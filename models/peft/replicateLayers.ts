import {show} from '../../quant/show.ts';
import type {LayeredModel} from '../replaceLayer.ts';
import type {LoRAOptions} from './loraOptions.ts';
import {trainsBiases} from './trainedBiases.ts';
import {wrongOption} from './wrongOption.ts';

/**
 * Puts layers in a row, if an adapter is made for that.
 *
 * @param names the adapters that the model has
 * @returns undoes it; undefined if nothing changed
 */
export function replicateLayers(
  model: LayeredModel,
  {layerReplication: ranges, bias}: LoRAOptions,
  names: readonly string[],
): (() => void) | undefined {
  const {replication} = model;
  if ((replication || ranges?.length) && trainsBiases(bias))
    throw wrongOption('bias', 'none with replicated layers, which share theirs', bias!);
  if (!ranges?.length || JSON.stringify(ranges) === JSON.stringify(replication)) return undefined;
  if (replication)
    throw wrongOption('layerReplication', `${show(replication)}, as the model is`, show(ranges));
  if (names.length > 0) throw wrongOption('layerReplication', 'a model without adapters', names.join(', '));
  if (model.replicateLayers) return model.replicateLayers(ranges);
  throw wrongOption('layerReplication', 'a model with a list of decoder blocks', 'another');
}

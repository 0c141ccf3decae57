import * as tf from '@tensorflow/tfjs';
import {type ModuleLayer, walk} from '../../layers/moduleLayer.ts';
import type {Parameter} from '../../layers/parameter.ts';
import {QuantizedParameter} from '../../layers/quantizedParameter.ts';
import {TiedHead} from '../../layers/tiedHead.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import type {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {warn} from '../../quant/warn.ts';
import type {LayeredModel} from '../replaceLayer.ts';
import {UNDER_ADAPTER} from './adapterParameters.ts';
import type {AdapterSet} from './adapterSet.ts';
import {unexpectedTensor} from './fillAdapter.ts';
import {PEFT_PREFIX} from './peftPrefix.ts';

/** PEFT's suffix of an adapted layer's name, for the layer's own weight, after a layer's name, with trained tokens or without. */
const PLACE_OF_BASE = /(\.token_adapter)?\.base_layer/;

/** A weight of the model that an adapter's file changes. */
export interface BaseChange {
  name: string;
  parameter: Parameter;
  value: tf.Tensor;
}

/**
 * Returns the model's own weights in an adapter's file, by their key there: `lm_head.base_layer.weight` when the head
 * is adapted, or the embedding and the head when the vocabulary was resized.
 *
 * @param copied layers that the adapter copies whole, whose weights are its own
 */
export function baseParameters(
  {layers}: LayeredModel,
  parameters: Map<string, Parameter>,
  file: SafetensorsFile,
  copied: readonly ModuleLayer[],
): Map<string, Parameter> {
  const tied = walk(layers).filter((layer) => layer instanceof TiedHead); // they share the embedding's weight
  const all = new Map([...tied.map(({name, weight}) => [`${name}.weight`, weight] as const), ...parameters]);
  const found = new Map<string, Parameter>();
  for (const name of file.names()) {
    if (!name.startsWith(PEFT_PREFIX)) continue;
    const inModel = name.slice(PEFT_PREFIX.length).replace(PLACE_OF_BASE, '');
    const parameter = all.get(inModel);
    if (parameter && !copied.some((layer) => inModel.startsWith(`${layer.name}.`)))
      found.set(name, parameter);
  }
  return found;
}

/** Checks that a file names the model's own weights as PEFT does, which depends on whether their layer is adapted. */
export function assertPlaces(
  adapters: AdapterSet,
  file: SafetensorsFile,
  base: Map<string, Parameter>,
): void {
  const adapted = adapters.layers();
  for (const name of base.keys()) {
    const inModel = name.slice(PEFT_PREFIX.length).replace(PLACE_OF_BASE, '');
    const isAdapted = adapted.has(inModel.slice(0, inModel.lastIndexOf('.')));
    if (isAdapted !== name.includes(UNDER_ADAPTER)) throw unexpectedTensor(name, file);
  }
}

/** Returns the value that a file has for a weight of the model, or undefined when it equals the model's. */
export async function baseChange(
  name: string,
  parameter: Parameter,
  file: SafetensorsFile,
  bytes: Uint8Array,
): Promise<BaseChange | undefined> {
  const where = `tensor ${name} (${file.path})`;
  if (parameter instanceof QuantizedParameter) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where}: expected only the adapter's weights, got one of the model, which is quantized here. ` +
        'Load the model unquantized, or remove the tensor from the file.',
    );
  }
  const info = file.info(name);
  if (!tf.util.arraysEqual([...info.shape], parameter.logicalShape)) {
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `${where}: expected the model's [${parameter.logicalShape.join(', ')}], got [${info.shape.join(', ')}]. ` +
        'The vocabulary was resized in training: load the model that was resized, or call resizeVocab first.',
    );
  }
  const value = parameter.decode(bytes, info.dtype, {where});
  if (parameter.isAllocated) {
    const [given, held] = [await value.data(), await parameter.read().data()];
    if (given.some((element, i) => element !== held[i])) return {name, parameter, value};
  }
  value.dispose();
  return undefined;
}

export function warnOfChanges(changes: BaseChange[], file: SafetensorsFile): void {
  if (changes.length === 0) return;
  const names = changes.map(({parameter}) => parameter.originalName).join(', ');
  warn(
    `adapter ${file.path}: its own ${names} differs from the model's and replaces it, as in PEFT. It stays when the ` +
      'adapter is deactivated or deleted: to restore the old one, load the model again.',
  );
}

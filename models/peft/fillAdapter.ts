import * as tf from '@tensorflow/tfjs';
import {LayerCopy} from '../../layers/layerCopy.ts';
import type {Parameter} from '../../layers/parameter.ts';
import {TiedAdapter} from '../../layers/tiedAdapter.ts';
import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';
import type {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {adapterParameters, biasParameters} from './adapterParameters.ts';
import type {AdapterSet} from './adapterSet.ts';
import {PEFT_PREFIX} from './peftPrefix.ts';

/** Fills an adapter's weights from the file. `base` are the tensors of the file that are the model's own. */
export function fillAdapter(
  adapters: AdapterSet,
  adapterName: string,
  file: SafetensorsFile,
  bytes: Map<string, Uint8Array>,
  base: Map<string, Parameter>,
): void {
  const parameters = adapterParameters(adapters, adapterName);
  assertHolds(biasParameters(adapters, adapterName).keys(), file);
  assertHolds(parameters.keys(), file);
  for (const name of file.names()) {
    if (base.has(name) || isRepeated(name, adapters, adapterName)) continue;
    const parameter = parameters.get(name);
    const where = `tensor ${name} (${file.path})`;
    if (!parameter) throw unexpectedTensor(name, file);
    assertShape(name, file, parameter);
    parameter.load(bytes.get(name)!, file.info(name).dtype, {where});
  }
}

/** Whether PEFT writes a weight into an adapter's file again: a tied head's update, or a copied layer's. */
function isRepeated(name: string, set: AdapterSet, adapterName: string): boolean {
  return [...set.layers()].some(([layer, {adapters}]) => {
    const adapter = adapters.get(adapterName);
    const repeats =
      adapter instanceof TiedAdapter
        ? ['lora_A.', 'lora_B.']
        : adapter instanceof LayerCopy
          ? ['original_module.', 'modules_to_save.'] // beside the copy, where the vocabulary was resized
          : [];
    return repeats.some((part) => name.startsWith(`${PEFT_PREFIX}${layer}.${part}`));
  });
}

/** @throws TfjsLoraError `MISSING_TENSOR` */
export function assertHolds(names: Iterable<string>, file: SafetensorsFile): void {
  for (const name of names) {
    if (file.has(name)) continue;
    throw new TfjsLoraError(
      'MISSING_TENSOR',
      `adapter ${file.path}: expected tensor ${name} (adapter_config.json targets its layer), got none of that name. ` +
        `Nearest: ${nearestNames(name, file.names()).join(', ')}`,
    );
  }
}

/** @throws TfjsLoraError `SHAPE_MISMATCH` */
export function assertShape(name: string, file: SafetensorsFile, {logicalShape}: Parameter): void {
  const {shape} = file.info(name);
  if (tf.util.arraysEqual([...shape], logicalShape)) return;
  throw new TfjsLoraError(
    'SHAPE_MISMATCH',
    `tensor ${name} (${file.path}): expected [${logicalShape.join(', ')}], got [${shape.join(', ')}]. ` +
      'The adapter was made for another model, or r and rank_pattern do not match the file.',
  );
}

export function unexpectedTensor(name: string, file: SafetensorsFile): TfjsLoraError {
  return new TfjsLoraError(
    'UNEXPECTED_TENSOR',
    `tensor ${name} (${file.path}): expected only tensors that adapter_config.json targets, got one it does not. ` +
      'Adapter and model, or adapter and config, do not belong together.',
  );
}

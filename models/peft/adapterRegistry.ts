import {LoRADense, type LoRADenseClass} from '../../layers/loraDense.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';

const layerClasses: LoRADenseClass[] = [LoRADense];

/**
 * Registers a layer class whose adapters have their own `peftType`, so that `loadAdapter`, recipes and the command line
 * open folders of that `peft_type`. LoRA is built in.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` when another class has the type. Registering the same class again does
 *   nothing, so that a notebook's cell may run twice
 */
export function registerAdapter(layerClass: LoRADenseClass): void {
  if (layerClasses.includes(layerClass)) return;
  const {peftType} = layerClass.adapterClass;
  if (!peftType || peftTypes().includes(peftType)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `registerAdapter peftType: expected a new name, got ${show(peftType)}, with ${peftTypes().join(', ')} taken. ` +
        'Give the adapter class a static peftType.',
    );
  }
  layerClasses.push(layerClass);
}

/** Returns the `peft_type` of every kind of adapter, in the order of registration. */
export function peftTypes(): string[] {
  return layerClasses.map(({adapterClass}) => adapterClass.peftType);
}

/** Returns the layer class of a registered kind of adapter by its type in lower case; undefined for LoRA and others. */
export function ownLayerClass(type: string): LoRADenseClass | undefined {
  return layerClasses.find(
    (layerClass) => layerClass !== LoRADense && layerClass.adapterClass.peftType.toLowerCase() === type,
  );
}

/**
 * Returns the layer class for an adapter's files.
 *
 * @param peftType the `peft_type` of the `adapter_config.json` that `where` names
 * @throws TfjsLoraError `UNSUPPORTED` for a type that is not registered
 */
export function layerClassOf(peftType: unknown, where: string): LoRADenseClass {
  const found = layerClasses.find(({adapterClass}) => adapterClass.peftType === peftType);
  if (found) return found;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${where} peft_type: expected ${peftTypes().map(show).join(' or ')}, got ${show(peftType)}. ` +
      'Add others with registerAdapter.',
  );
}

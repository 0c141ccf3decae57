import type {Reference} from '../../training/losses/reference.ts';
import type {TrainableCausalLM} from '../../training/trainable.ts';
import {adapterFolderOf, type OpenOptions, openBase, useAdapters} from './openModel.ts';
import type {Recipe} from './recipe.ts';
import {usesReference} from './usesReference.ts';

/** Name that a reference adapter has in the trained model. */
const ADAPTER = 'reference';

/** What a recipe's answers are compared with, and the model to dispose, if it is another one. */
export interface OpenedReference {
  reference?: Reference;
  model?: TrainableCausalLM;
}

/**
 * Opens the reference that a recipe names. An adapter on the trained model's own base becomes a second adapter of that
 * model; call this before {@link applyMethod}. Without `ref_model`, the reference is the model without its adapter, or a
 * second copy of a model that trains whole.
 *
 * @param options of the model, if it is another one
 */
export async function openReference(
  recipe: Recipe,
  trained: TrainableCausalLM,
  options: OpenOptions,
): Promise<OpenedReference> {
  const {reference, model, method, data, preference, labelLoss} = recipe;
  const isUsed = usesReference(data.stage, preference.type, labelLoss?.type === 'asft');
  if (!isUsed || (reference.nameOrPath === undefined && method === 'lora')) return {};
  if (isOnTrainedBase(recipe)) {
    const [adapter] = reference.adapters;
    if (adapter === undefined) return {};
    const folder = await adapterFolderOf(adapter, recipe, 'ref_model_adapters');
    await trained.loadAdapter(folder, {adapterName: ADAPTER});
    return {reference: ADAPTER};
  }
  const {nameOrPath = model.nameOrPath} = reference;
  const other = {...recipe, model: {...model, ...reference, nameOrPath}};
  const opened = await openBase(other, options);
  try {
    await useAdapters(opened, other, {last: 'keep'});
  } catch (error) {
    opened.dispose();
    throw error;
  }
  return {reference: opened, model: opened};
}

/** Whether the reference is the base that the trained adapter is added to without a change, with at most one adapter. */
function isOnTrainedBase({reference, model, method, pissa}: Recipe): boolean {
  return (
    method === 'lora' &&
    !pissa.init &&
    reference.nameOrPath === model.nameOrPath &&
    reference.adapters.length <= 1 &&
    JSON.stringify(reference.quantization) === JSON.stringify(model.quantization) &&
    model.adapters.length <= (model.createNewAdapter ? 0 : 1)
  );
}

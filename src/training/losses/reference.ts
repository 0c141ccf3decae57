import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import type {LossModel} from './lossModel.ts';

/** Another model that never trains here, as every `CausalLM`. */
export type ReferenceModel = Required<Pick<LossModel, 'tokenLosses'>> &
  Pick<LossModel, 'labelStates' | 'lm_head' | 'logitBound'>;

/**
 * The reference that a loss compares the trained model with: another model, or the names of other adapters of the same
 * model. Default: the model without its adapters.
 */
export type Reference = ReferenceModel | string | readonly string[];

/** Returns the model that a reference adds to those in memory, if any. */
export const otherModel = (reference: Reference | undefined): ReferenceModel | undefined =>
  typeof reference === 'object' && reference !== null && 'tokenLosses' in reference ? reference : undefined;

/** Returns the names of the adapters that are a reference in the same model. */
export const adaptersOf = (reference: Reference | undefined): string[] =>
  [reference ?? []].flat() as string[];

/** Computes with the reference of a model. */
export function withReference<R>(
  model: LossModel,
  reference: Reference | undefined,
  compute: (reference: ReferenceModel) => R,
): R {
  const other = otherModel(reference);
  if (other) return compute(other);
  return model.withAdapters!(adaptersOf(reference), () => compute(model as ReferenceModel));
}

/**
 * Checks that a model has the reference.
 *
 * @param what names the loss in messages
 * @param alternative advice for those without a reference, or nothing
 * @throws TfjsLoraError `UNSUPPORTED` when the model has no adapter whose absence is the reference;
 *   `UNKNOWN_ADAPTER`, or `INVALID_ARGUMENT` for an adapter or model that trains
 */
export function assertReference(
  what: string,
  model: LossModel,
  reference: Reference | undefined,
  alternative = '',
): void {
  if (reference === model) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what} reference: expected another model, got the trained one. Leave it out to compare with the model without its ` +
        'adapter.',
    );
  }
  if (otherModel(reference)) return;
  const {activeAdapters = [], adapterNames = []} = model;
  if (!model.withAdapters || activeAdapters.length === 0) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${what}: expected an adapter, because the model without it is the reference, got none. ` +
        `Call applyLoRA() first, or pass another model as the reference${alternative}.`,
    );
  }
  if (model.baseChangedBy !== undefined) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${what} reference: expected a base that is as it was loaded, got one that ${model.baseChangedBy} changed. ` +
        'Without the adapter it is no reference then: pass another model.',
    );
  }
  const changing = activeAdapters.find((name) => (model.adapterOptions?.(name).bias ?? 'none') !== 'none');
  if (changing !== undefined) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${what} reference: expected adapters with bias none, got "${changing}", which trains biases of the base. ` +
        'The base without it is no reference then: pass another model.',
    );
  }
  for (const name of adaptersOf(reference)) {
    if (!adapterNames.includes(name)) {
      throw new TfjsLoraError(
        'UNKNOWN_ADAPTER',
        `${what} reference: expected an adapter out of ${adapterNames.join(', ')}, got ${show(name)}`,
      );
    }
    if (!activeAdapters.includes(name)) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what} reference: expected adapters that are not active, got ${show(name)}, which trains. ` +
        'Activate the adapter to train: setAdapter(name).',
    );
  }
}

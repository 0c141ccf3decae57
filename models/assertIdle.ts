import {TfjsLoraError} from '../quant/errors.ts';

/** A model that a long call may be working on. */
export interface BusyModel {
  /** Name of the call that is changing the weights over many turns of the event loop: `fitDataset`, `quantize`. */
  busyWith?: string;
}

/**
 * Refuses to change the weights, layers or optimizer of a model while it trains: the training would silently continue
 * with others than it began with.
 *
 * @param what name of the call, for messages
 * @throws TfjsLoraError `UNSUPPORTED` when the model is busy
 */
export function assertIdle({busyWith}: BusyModel, what: string): void {
  if (busyWith === undefined) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${what}: expected an idle model, got one that ${busyWith} is working on. Await ${busyWith} first` +
      (busyWith === 'fitDataset' ? ', or set model.stopTraining = true to stop it early.' : '.'),
  );
}

import {TfjsLoraError} from '../quant/errors.ts';

/** A model that something may be at work on for a while. */
export interface BusyModel {
  /** What changes the weights now, over many turns of the event loop: `fitDataset`. */
  busyWith?: string;
}

/**
 * Before weights, layers or optimizer of a model change: a training that is under way would go on with others than it began
 * with, without a word.
 *
 * @param what the call
 * @throws TfjsLoraError `UNSUPPORTED`
 */
export function assertIdle({busyWith}: BusyModel, what: string): void {
  if (busyWith === undefined) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${what}: expected a model that nothing trains, got one that ${busyWith} is at work on. ` +
      `Await ${busyWith} first; to end it early, set model.stopTraining = true.`,
  );
}

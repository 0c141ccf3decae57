import {TfjsLoraError} from '../quant/errors.ts';
import {isRecording} from './ops/isRecording.ts';

/** Which rows of a pass an input has, where a layer gets them in parts. */
export interface RowPart {
  /** Index of its first row. */
  first: number;
  /** Number of rows in the whole pass. */
  of: number;
}

/**
 * Returns the row of the batch that each position of an input belongs to.
 *
 * @param positions size of the input's first axis, rows or positions of rows
 * @param rows number of rows of the batch
 * @param part which positions of the pass these are. Default: all
 */
export function rowsOfPositions(
  positions: number,
  rows: number,
  part: RowPart = {first: 0, of: positions},
): Int32Array {
  return Int32Array.from({length: positions}, (_, i) => Math.floor(((part.first + i) * rows) / part.of));
}

/**
 * Refuses an adapter per row in a pass that needs gradients: those of the stacked copies would be lost.
 *
 * @throws TfjsLoraError `UNSUPPORTED`
 */
export function assertNoTraining(training = false): void {
  if (!training && !isRecording()) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    'adapterNames: expected a pass that does not train, got one that does. Train each adapter on its own rows.',
  );
}

import {keptFor} from '../../keptFor.ts';
import type {Ops} from '../device/runOps.ts';
import type {Handle, TensorFlowBackend} from '../device/tensorflowBackend.ts';

/** Elements of the largest weight that is kept: 1 MiB. Larger ones take longer to multiply than to make again. */
const MAX_SIZE = 1 << 18;
/** Elements of all kept weights together: 32 MiB. */
const MAX_TOTAL = 1 << 23;

interface KeptWeight {
  version: string;
  handle: Handle;
  size: number;
}

/** Weights by id, the longest unused first, and the number of elements in all of them. */
const weightsOf = keptFor((_: TensorFlowBackend) => ({byId: new Map<number, KeptWeight>(), total: 0}));

export const isKeptSize = (rows: number, cols: number): boolean => rows * cols <= MAX_SIZE;

/**
 * Returns a small weight as it is multiplied, kept until its version changes. Backward, the next batch and each
 * generated token need it again, and in a model of small weights making it costs as much as the product.
 *
 * @param id id of the handle that the weight is made from; ids are never reused
 * @param version identifies everything else that it is made from
 * @param make returns a float32 matrix; it must satisfy {@link isKeptSize}
 */
export function keptWeight(ops: Ops, id: number, version: string, make: () => Handle): Handle {
  const {backend} = ops;
  const kept = weightsOf(backend);
  const known = kept.byId.get(id);
  if (known?.version === version) {
    kept.byId.delete(id); // moves it to the end
    kept.byId.set(id, known);
    return known.handle;
  }
  const handle = ops.disown(ops.scope(make));
  const size = handle.shape[0] * handle.shape[1];
  const drop = (id: number, {handle, size}: KeptWeight) => {
    backend.binding.deleteTensor(handle.id);
    kept.byId.delete(id);
    kept.total -= size;
  };
  if (known) drop(id, known);
  for (const [oldId, old] of kept.byId) {
    if (kept.total + size <= MAX_TOTAL) break;
    drop(oldId, old);
  }
  kept.byId.set(id, {version, handle, size});
  kept.total += size;
  return handle;
}

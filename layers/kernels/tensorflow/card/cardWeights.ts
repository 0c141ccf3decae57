import type {FourBitMatrix} from '../../../ops/quantizedMatrix.ts';
import type {StoredFormat} from '../../../ops/storedMatrix.ts';
import type {Ops} from '../device/runOps.ts';
import {DataType, type Handle} from '../device/tensorflowBackend.ts';

type CardDtype = Exclude<StoredFormat['dtype'], 'grouped'>;

/** Numbers of the storage types in `native/cuda/engine.h`. Ops get no others; see `fits16BitKernels`. */
const KINDS: Record<CardDtype, number> = {
  bfloat16: 0,
  float16: 1,
  nf4: 3,
  fp4: 4,
  int8: 5,
};

/** What the ops of a card get of their weights in addition to tensors, as `native/cuda/ops.cc` reads it. */
export interface CardPlan {
  plan: number[];
  numbers: number[];
}

/** Adds a weight's kind, rows, columns, block size, nested block size and offset. */
export function planWeight({plan, numbers}: CardPlan, format: StoredFormat): void {
  const {dtype, rows, cols} = format;
  const {blockSize = 0, nestedBlockSize = 0, offset = 0} = format as Partial<FourBitMatrix>;
  plan.push(KINDS[dtype as CardDtype], rows, cols, blockSize, nestedBlockSize);
  numbers.push(offset);
}

/** Returns a tensor of any type as float32 words, which ops of a card take: a view, kept as long as the tensor. */
export function asWords(ops: Ops, tensor: Handle): Handle {
  if (tensor.dtype === DataType.float32) return tensor;
  return ops.view(tensor, 'words', () => ops.bitcast(tensor, DataType.float32));
}

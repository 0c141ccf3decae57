import {embeddingOp} from '../../../ops/embedding.ts';
import {weightKernel} from '../device/opsKernel.ts';
import {DataType} from '../device/tensorflowBackend.ts';
import {halfRows} from './widen16.ts';

/** `Embedding` (layers/ops/embedding.ts): rows are picked in 16 bits, and only these rows are widened. */
export const embedding = weightKernel(
  embeddingOp,
  (ops, {ids, table}, {dtype, cols}) => {
    const width = 2 * table.shape[1];
    const rows = ops.cast(ops.gather(halfRows(ops, table, dtype, width), ids), DataType.float32);
    return cols === width ? rows : ops.slice(rows, [0, 0], [-1, cols]);
  },
  ({table}) => ({table}),
);

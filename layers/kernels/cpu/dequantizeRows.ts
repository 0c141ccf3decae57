import {dequantizeRowsOp} from '../../ops/dequantizeRows.ts';
import {hostMatrix} from '../../ops/quantizedMatrix.ts';
import {kernel} from '../kernel.ts';

/** `DequantizeRows` (layers/ops/dequantizeRows.ts), over the tensors' own memory. */
export const dequantizeRows = kernel(dequantizeRowsOp, 'cpu', ({inputs, attrs, backend}) => {
  const {begin, end, cols} = attrs;
  const contents = Object.entries(inputs).map(([name, {dataId}]) => [
    name,
    backend.data.get(dataId).values as Int32Array | Float32Array,
  ]);
  const values = hostMatrix(attrs, 'float32', Object.fromEntries(contents)).dequantizeRows(begin, end);
  return backend.makeTensorInfo([end - begin, cols], 'float32', values);
});

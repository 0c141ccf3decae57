import {pack16Op} from '../../../ops/pack16.ts';
import {opsKernel} from '../device/opsKernel.ts';
import {DataType} from '../device/tensorflowBackend.ts';

/** `Pack16` (layers/ops/pack16.ts): a cast and a bitcast. */
export const pack16 = opsKernel(pack16Op, (ops, {value}, {dtype}) => {
  const [rows, cols] = value.shape;
  const rounded = ops.cast(value, DataType[dtype]);
  const even = cols % 2 === 0 ? rounded : ops.padEnd(rounded, [0, 1]);
  return ops.bitcast(ops.reshape(even, [rows, Math.ceil(cols / 2), 2]), DataType.int32);
});

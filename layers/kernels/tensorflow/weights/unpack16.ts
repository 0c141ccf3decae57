import {unpack16Op} from '../../../ops/unpack16.ts';
import {weightKernel} from '../device/opsKernel.ts';
import {widen16} from './widen16.ts';

/** `Unpack16` (layers/ops/unpack16.ts): a bitcast and a cast. */
export const unpack16 = weightKernel(unpack16Op, (ops, {packed}, {dtype, cols}) =>
  widen16(ops, packed, dtype, cols),
);

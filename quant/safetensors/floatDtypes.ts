import type {StorageDtype} from '../float16.ts';
import type {SafetensorsDtype} from './safetensorsDtype.ts';

/** Storage types of a weight by their names in safetensors. */
export const FLOAT_DTYPES: {readonly [dtype in SafetensorsDtype]?: StorageDtype} = {
  F32: 'float32',
  BF16: 'bfloat16',
  F16: 'float16',
};

/** Names in safetensors by storage type. */
export const FILE_DTYPES = {float32: 'F32', bfloat16: 'BF16', float16: 'F16'} as const satisfies Record<
  StorageDtype,
  SafetensorsDtype
>;

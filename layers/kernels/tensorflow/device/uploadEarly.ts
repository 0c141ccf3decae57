import {uploadEarlyOp} from '../../../ops/uploadEarly.ts';
import {kernel} from '../../kernel.ts';
import {keepOnCard} from './keepOnCard.ts';

/**
 * `UploadEarly` (layers/ops/uploadEarly.ts). TensorFlow brings a tensor to the card when its handle is made, int32 when
 * it is read.
 */
export const uploadEarly = kernel(uploadEarlyOp, 'tensorflow', ({inputs, backend}) => {
  backend.getInputTensorIds([inputs.tensor]);
  keepOnCard(backend, inputs);
  return [];
});

import {TfjsLoraError} from '../../quant/errors.ts';
import type {Backend} from './backend.ts';

/** The graphics card through WebGPU. Not there yet: always says so. */
export const webgpu: Backend = {
  name: 'webgpu',
  async start() {
    throw new TfjsLoraError(
      'BACKEND_UNAVAILABLE',
      'useBackend webgpu: expected WebGPU kernels, got none: this version has not got them yet. Use wasm.',
    );
  },
};

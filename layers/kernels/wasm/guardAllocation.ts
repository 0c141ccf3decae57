import {TfjsLoraError} from '../../../quant/errors.ts';
import type {WasmBackend} from './wasmBackend.ts';

/** Bytes that the addresses of `wasm` reach: the most that all tensors may take. */
export const WASM_MEMORY = 2 ** 32;

const guarded = new WeakSet<WasmBackend['wasm']>();

/**
 * Makes the backend refuse a tensor that its memory has no room for. TensorFlow.js does not look at the address that
 * an allocation returns: without room it is 0, and the tensor's values would overwrite the heap's own data.
 */
export function guardAllocation({wasm}: WasmBackend): void {
  if (guarded.has(wasm)) return;
  guarded.add(wasm);
  const allocate = wasm._malloc;
  wasm._malloc = (bytes) => {
    const offset = bytes < WASM_MEMORY ? allocate(bytes) : 0;
    if (offset === 0 && bytes > 0) {
      throw new TfjsLoraError(
        'INSUFFICIENT_MEMORY',
        `backend wasm: expected room for a tensor of ${(bytes / 2 ** 20).toFixed(1)} MiB in its memory of ` +
          `${WASM_MEMORY / 2 ** 30} GiB, got none. ` +
          'Use a smaller model, 4 bits, a smaller batch or shorter examples, or another backend: ' +
          'npx tfjs-lora doctor lists them.',
      );
    }
    return offset;
  };
}

import type * as tf from '@tensorflow/tfjs';

/** What these kernels use of TensorFlow.js's wasm backend. */
export interface WasmBackend extends tf.KernelBackend {
  wasm: {
    HEAPU8: Uint8Array;
    _malloc(bytes: number): number;
    _free(offset: number): void;
    /** The memory, in the build with threads. */
    wasmMemory?: WebAssembly.Memory;
    /** The module's exports; the memory is among them in the build without threads. */
    asm: {memory?: WebAssembly.Memory};
  };
  dataIdMap: {get(dataId: tf.DataId): {memoryOffset: number; id: number}};
  makeOutput(shape: number[], dtype: tf.DataType): tf.TensorInfo;
}

/** The heap that all tensors of the backend lie in. */
export function memoryOf({wasm}: WasmBackend): WebAssembly.Memory {
  return (wasm.wasmMemory ?? wasm.asm.memory) as WebAssembly.Memory;
}

/** Where a tensor's values begin, in bytes. */
export function offsetOf(backend: WasmBackend, {dataId}: tf.TensorInfo): number {
  return backend.dataIdMap.get(dataId).memoryOffset;
}

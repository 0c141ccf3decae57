import type * as tf from '@tensorflow/tfjs';

/** The parts of TensorFlow.js's wasm backend that these kernels use. */
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

/** Returns the heap that holds all tensors of the backend. */
export function memoryOf({wasm}: WasmBackend): WebAssembly.Memory {
  return (wasm.wasmMemory ?? wasm.asm.memory) as WebAssembly.Memory;
}

/** Returns where a tensor's values begin, in bytes. */
export function offsetOf(backend: WasmBackend, {dataId}: tf.TensorInfo): number {
  return backend.dataIdMap.get(dataId).memoryOffset;
}

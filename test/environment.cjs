const {TestEnvironment: NodeEnvironment} = require('jest-environment-node');

/**
 * jest's Node environment with one set of binary types.
 *
 * jest runs each test file in its own V8 context with its own `Float32Array`, `WebAssembly` and so on, while Node's
 * modules (fs, worker_threads, util) and native addons make and check those of the outer context. `instanceof` between
 * the two is false, which breaks TensorFlow.js (typed arrays handed to tensors, the memory of the wasm backend).
 * So every test sees the outer context's binary types, and web globals that jest leaves out.
 *
 * The engine of TensorFlow.js lives on the context's own global: each test file still has its own engine. So it has its
 * own wasm backend too, whose threads and memory would stay until jest's worker ends, one set more with every file.
 *
 * When `webgpu` is among `TFJS_LORA_TEST_BACKENDS`, Dawn is started here: its package is an ES module, which the
 * tests' CommonJS world cannot import. The tests see what a browser would give them, `navigator.gpu` and its classes, and
 * `nullGPU`, which has every feature and computes nothing.
 */
const SHARED_WITH_NODE = [
  'ArrayBuffer',
  'SharedArrayBuffer',
  'DataView',
  'Int8Array',
  'Uint8Array',
  'Uint8ClampedArray',
  'Int16Array',
  'Uint16Array',
  'Int32Array',
  'Uint32Array',
  'BigInt64Array',
  'BigUint64Array',
  'Float32Array',
  'Float64Array',
  'Atomics',
  'WebAssembly',
  'TextEncoder',
  'TextDecoder',
  'performance',
  'structuredClone',
  'navigator',
];

// TensorFlow's library reads the process's own environment, of which tests see a copy;
// src/training/backends/tensorflow.ts sets these.
process.env.TF_ENABLE_ONEDNN_OPTS ??= '1';
process.env.TF_CPP_MIN_LOG_LEVEL ??= '2';

/** Dawn's instances, kept in the outer context, because collecting an instance ends the process. */
let dawn;

async function startDawn() {
  if (dawn) return dawn;
  const {create, globals} = await import('webgpu');
  const features = 'allow_unsafe_apis,vulkan_enable_f16_on_nvidia,disable_robustness';
  const [gpu, nullGPU] = [[], ['backend=null']].map((options) =>
    create([...options, `enable-dawn-features=${features}`]),
  );
  dawn = {gpu, nullGPU, globals};
  return dawn;
}

module.exports = class TfjsEnvironment extends NodeEnvironment {
  constructor(config, context) {
    super(config, context);
    for (const name of SHARED_WITH_NODE) {
      if (name in globalThis) {
        Object.defineProperty(this.global, name, {
          value: globalThis[name],
          configurable: true,
          writable: true,
          enumerable: false,
        });
      }
    }
  }

  async setup() {
    await super.setup();
    if (!process.env.TFJS_LORA_TEST_BACKENDS?.split(',').includes('webgpu')) return;
    const {gpu, nullGPU, globals} = await startDawn();
    Object.assign(this.global, globals, {nullGPU});
    Object.defineProperty(this.global, 'navigator', {value: {gpu}, configurable: true});
  }

  async teardown() {
    const engine = this.global._tfengine;
    if (engine?.registry.wasm) engine.removeBackend('wasm');
    await super.teardown();
  }
};

import * as tf from '@tensorflow/tfjs';
import {
  settingsOf,
  type TensorFlowBackend,
} from '../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {registerTensorFlowKernels} from '../../../layers/kernels/tensorflow/registerTensorFlowKernels.ts';
import {setBackendTraits} from '../../../layers/ops/backendTraits.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {Backend} from './backend.ts';
import {type ComputeDtype, nearestComputeDtype} from './computeDtype.ts';
import {cudaLibraries, missingLibraries, nvidiaCard} from './cudaLibraries.ts';
import {chooseFusedOps} from './fusedOps.ts';
import {isNode, nodeModule, processor} from './processor.ts';
import {readSetup, TENSORFLOW_PACKAGES, type TensorFlowSetup, tensorflowFolder} from './tensorflowFolder.ts';
import {guardHandles} from './tensorflowHandles.ts';

/** Variables that TensorFlow reads when its library loads, unless the user has set them. */
const DEFAULT_ENVIRONMENT = {
  TF_ENABLE_ONEDNN_OPTS: '1', // off by default on processors without AVX-512, although it gains a third there
  TF_FORCE_GPU_ALLOW_GROWTH: 'true', // otherwise it allocates the whole card
  TF_CPP_MIN_LOG_LEVEL: '2', // errors only: the report below covers its warnings
  CUDA_CACHE_MAXSIZE: '4294967296', // for kernels compiled for a card newer than the library
};

const COMPUTE_DTYPES = ['float32', 'bfloat16'] as const;

/**
 * Number of logits in memory at a time: 256 MiB, as 512 rows times the head cost little more than 256; 512 MiB on a
 * card.
 */
const [LOGITS_AT_ONCE, LOGITS_AT_ONCE_ON_CARD] = [1 << 26, 1 << 27];

/**
 * Native TensorFlow: the one that `tfjs-lora setup tensorflow` made, or else a package of {@link TENSORFLOW_PACKAGES}.
 */
export const tensorflow: Backend = {
  name: 'tensorflow',
  async start(options) {
    const dtype = options.computeDtype && nearestComputeDtype(options.computeDtype, COMPUTE_DTYPES);
    const {name: loaded, setup} = await loadTensorFlow(dtype);
    if (!(await tf.setBackend('tensorflow'))) {
      throw unavailable(`${loaded} loaded, but its backend did not start`);
    }
    registerTensorFlowKernels();
    const backend = tf.backend() as TensorFlowBackend;
    guardHandles(backend);
    setBackendTraits(backend, {
      isOnHost: !backend.isUsingGpuDevice,
      logitsAtOnce: backend.isUsingGpuDevice ? LOGITS_AT_ONCE_ON_CARD : LOGITS_AT_ONCE,
    });
    if (dtype)
      settingsOf(backend).products = {
        operands: dtype,
        isNative: dtype === 'float32' || (await multiplies16Bits(backend)),
      };
    const version = backend.binding.TF_Version;
    const features = [`TensorFlow ${version}`, loaded, describeProducts(backend)];
    const computeDtype = settingsOf(backend).products.operands;
    const card = await nvidiaCard();
    const fusedOps = await chooseFusedOps(backend, setup, options.fusedOps);
    if (backend.isUsingGpuDevice)
      return {device: card ?? 'GPU', features: ['GPU', ...features, fusedOps], computeDtype};
    const {model} = await processor();
    const unused = card ? [`${card} unused: ${await whyUnused(loaded, version)}`] : [];
    return {device: model, features: ['CPU', ...features, fusedOps, ...unused], computeDtype};
  },
};

interface LoadedPackage {
  name: string;
  /** Its set-up and folder; undefined for a package that the user installed. */
  setup?: {folder: string; made: TensorFlowSetup};
}

/**
 * Loads the first package that works, which makes its backend the current one.
 *
 * @throws TfjsLoraError `BACKEND_UNAVAILABLE`, saying what is missing
 */
export async function loadTensorFlow(computeDtype?: ComputeDtype): Promise<LoadedPackage> {
  if (!isNode())
    throw new TfjsLoraError('BACKEND_UNAVAILABLE', 'backend tensorflow: expected Node, got a browser.');
  const {createRequire} = await nodeModule<typeof import('node:module')>('module');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  await prepareProcess(computeDtype);
  const folder = await tensorflowFolder();
  const made = await readSetup(folder);
  const candidates: [name: string, path: string][] = TENSORFLOW_PACKAGES.map((name) => [name, name]);
  if (made) candidates.unshift([made.package, join(folder, 'node_modules', made.package)]);
  const load = createRequire(import.meta.url); // not `require`, which the CommonJS build needs itself
  const failures: string[] = [];
  for (const [name, path] of candidates) {
    try {
      load(path);
      return {name, setup: made && path !== name ? {folder, made} : undefined};
    } catch (error) {
      failures.push(`${name}${path === name ? '' : ', set up'}: ${failureOf(error, path)}`);
    }
  }
  throw unavailable(failures.join('; '));
}

/** Prepares the process before TensorFlow's library and tfjs-node's code are loaded. */
async function prepareProcess(computeDtype: ComputeDtype | undefined): Promise<void> {
  const {env} = globalThis.process;
  for (const [name, value] of Object.entries(DEFAULT_ENVIRONMENT)) env[name] ??= value;
  // Read when the library loads: whether float32 products on a card stay float32, or use TF32, TensorFlow's default.
  // TF32 has 10 bits, is several times as fast, and is still more exact than the bfloat16 products beside it.
  const isLoaded = tf.findBackendFactory('tensorflow') != null;
  if (computeDtype !== 'bfloat16' && !isLoaded) env.NVIDIA_TF32_OVERRIDE ??= '0';
  // tfjs-node 4.22 calls two functions that Node 23 removed.
  const util = await nodeModule<Record<string, unknown>>('util');
  util.isNullOrUndefined ??= (value: unknown) => value == null;
  util.isArray ??= Array.isArray;
}

/** Whether to multiply bfloat16; elsewhere TensorFlow multiplies it more slowly than float32, and also sums in it. */
async function multiplies16Bits({isUsingGpuDevice}: TensorFlowBackend): Promise<boolean> {
  const {readFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  return isUsingGpuDevice || /\bavx512f\b/.test(await readFile('/proc/cpuinfo', 'utf8').catch(() => ''));
}

function describeProducts(backend: TensorFlowBackend): string {
  const {operands, isNative} = settingsOf(backend).products;
  if (!isNative) return `products of ${operands}, in float32`;
  const isTF32 = backend.isUsingGpuDevice && globalThis.process.env.NVIDIA_TF32_OVERRIDE !== '0';
  if (operands === 'float32') return `products in ${isTF32 ? 'TF32' : 'float32'}`;
  return `products in ${operands}${isTF32 ? ', others in TF32' : ''}`;
}

async function whyUnused(loaded: string, version: string): Promise<string> {
  if (!loaded.endsWith('-gpu'))
    return 'this TensorFlow is for processors only; run tfjs-lora setup tensorflow --gpu';
  const folder = await tensorflowFolder();
  const libraries = (await readSetup(folder))?.libraries ?? folder;
  const missing = await missingLibraries(cudaLibraries(version), libraries);
  if (missing.length > 0) return `TensorFlow does not find ${missing.join(', ')}`;
  const {CUDA_VISIBLE_DEVICES} = globalThis.process.env;
  return CUDA_VISIBLE_DEVICES === undefined
    ? 'its libraries are there, but TensorFlow refuses it; TF_CPP_MIN_LOG_LEVEL=0 shows why'
    : `CUDA_VISIBLE_DEVICES is "${CUDA_VISIBLE_DEVICES}"`;
}

function failureOf(error: unknown, path: string): string {
  const {code, message} = error as NodeJS.ErrnoException;
  const notFound = code === 'ERR_MODULE_NOT_FOUND' || code === 'MODULE_NOT_FOUND';
  if (notFound && message.includes(path)) return 'not installed';
  return `does not load (${message.split('\n')[0]})`;
}

function unavailable(got: string): TfjsLoraError {
  return new TfjsLoraError(
    'BACKEND_UNAVAILABLE',
    `backend tensorflow: expected ${TENSORFLOW_PACKAGES.join(' or ')}, got: ${got}. ` +
      'Run npx tfjs-lora setup tensorflow, or use wasm.',
  );
}

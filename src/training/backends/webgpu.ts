import * as tf from '@tensorflow/tfjs';
import {supportAttachments} from '../../../layers/kernels/webgpu/device/attachments.ts';
import {BufferPool} from '../../../layers/kernels/webgpu/device/bufferPool.ts';
import {recordCommands} from '../../../layers/kernels/webgpu/device/commandRecording.ts';
import {compileShaders} from '../../../layers/kernels/webgpu/device/compileShaders.ts';
import {overwrite} from '../../../layers/kernels/webgpu/device/overwrite.ts';
import {isTuned, setTuning} from '../../../layers/kernels/webgpu/device/tuning.ts';
import {
  capabilitiesOf,
  submitRecorded,
  tryMatrices,
  type WebGPUBackend,
} from '../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {registerWebGPUKernels} from '../../../layers/kernels/webgpu/registerWebGPUKernels.ts';
import {mostDecoded} from '../../../layers/kernels/webgpu/stack/decodeStack.ts';
import {settleGradients} from '../../../layers/kernels/webgpu/stack/laterGradients.ts';
import {stackMemory} from '../../../layers/kernels/webgpu/stack/stackMemory.ts';
import {setBackendTraits} from '../../../layers/ops/backendTraits.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import {warn} from '../../../quant/warn.ts';
import type {Backend} from './backend.ts';
import {nearestComputeDtype} from './computeDtype.ts';
import {mayHaveGraphicsCard} from './graphicsCard.ts';
import {isNode} from './processor.ts';
import {tuningFile} from './tuningFile.ts';

/**
 * Dawn's switches. They enable f16 and subgroup matrices, and disable bounds checks, which our shaders make themselves.
 */
const DAWN_FEATURES = 'allow_unsafe_apis,vulkan_enable_f16_on_nvidia,disable_robustness';

/** Disabled because it rounds timestamps to 65 µs, to protect web pages, which is too coarse to tell kernels apart. */
const DAWN_LEFT_OUT = 'timestamp_quantization';

/** Features requested from the device if the adapter has them. */
const FEATURES = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix', 'timestamp-query'];

/** Limits raised to the adapter's own; the defaults are those of a small phone. */
const LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupSizeZ',
  'maxComputeWorkgroupsPerDimension',
] as const;

/**
 * Number of logits in memory at a time: 128 MiB. With Llama 3's vocabulary these are two tiles of rows, so that the
 * head's weight is read half as often.
 */
const LOGITS_AT_ONCE = 1 << 25;

/**
 * Number of dispatches in a submission. A submission costs the host as much as several dispatches, but the card waits
 * until one comes. After a read, when the card is idle, the first is small, and each next one twice as large.
 */
const DISPATCHES = {first: 16, most: 96};
const SUBMISSION_SIZE = 'WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE';

/** The variable by which the loader of Vulkan leaves drivers out. */
const HIDDEN_DRIVERS = 'VK_LOADER_DRIVERS_DISABLE';

/** Objects kept for the life of the process: Dawn aborts when its instance is collected. */
const alive: unknown[] = [];

/** The graphics card through WebGPU: Dawn in Node (package `webgpu`), and the browser's own WebGPU elsewhere. */
export const webgpu: Backend = {
  name: 'webgpu',
  async start(options, isAsked) {
    const {WebGPUBackend: BackendClass} = await loadPackage(isAsked, options.adapter);
    if (!('webgpu' in tf.engine().registry) || !isOurs(tf.findBackend('webgpu'))) {
      const adapter = await requestAdapter(isAsked);
      const name = nameOf(adapter);
      if (isSoftware(adapter) && !isAsked) {
        throw unavailable(`a software driver only (${name}). Ask for webgpu by name to use it`);
      }
      const device = await requestDevice(adapter);
      const backend = new BackendClass(device, adapter.info) as unknown as WebGPUBackend;
      watch(backend, name);
      reuseAtOnce(backend);
      supportAttachments(backend);
      growSubmissions(backend);
      backend.bufferManager = new BufferPool(device, () => submitRecorded(backend));
      setBackendTraits(backend, {
        logitsAtOnce: Math.min(LOGITS_AT_ONCE, device.limits.maxStorageBufferBindingSize / 4),
        maxTensorBytes: device.limits.maxStorageBufferBindingSize,
        record: (inputs, run) => recordCommands(backend, inputs, run),
        overwrite: (tensor, values) => overwrite(backend, tensor, values),
        stackMemory: (step) => stackMemory(backend, step),
        settle: () => settleGradients(backend),
        compileShaders: (run, onProgress) => compileShaders(backend, run, onProgress),
      });
      const {subgroupMinSize, subgroupMaxSize} = adapter.info;
      await tryMatrices(backend, subgroupMinSize === subgroupMaxSize ? subgroupMinSize : undefined);
      if (tf.findBackendFactory('webgpu')) tf.removeBackend('webgpu'); // the package's own lacks f16 and subgroups
      tf.registerBackend('webgpu', () =>
        Object.assign(backend, {[OURS]: name, [IDENTITY]: identityOf(adapter)}),
      );
      if (isSoftware(adapter)) warnOfSoftware(name);
    }
    // The stock product of few rows with a long inner side, split over workgroups, is wrong: its sums start from
    // another tensor's remains. A threshold below one workgroup selects the plain product.
    tf.env().set('WEBGPU_THRESHOLD_TO_INCREASE_WORKGROUPS_FOR_MATMUL', 0.1);
    tf.env().set(SUBMISSION_SIZE, DISPATCHES.first);
    if (!(await tf.setBackend('webgpu'))) throw unavailable('a backend that did not start');
    const backend = tf.backend() as OurBackend;
    const capabilities = capabilitiesOf(backend);
    if (options.computeDtype) {
      const has = capabilities.hasF16 ? (['float32', 'float16'] as const) : (['float32'] as const);
      capabilities.computeDtype = nearestComputeDtype(options.computeDtype, has);
    }
    if (options.tune !== undefined)
      await setTuning(backend, options.tune ? {device: backend[IDENTITY], store: tuningFile} : undefined);
    const {hasF16, hasSubgroups, hasMatrices} = capabilities;
    setBackendTraits(backend, {decodesStacks: {sequences: mostDecoded(backend), adapters: false}});
    registerWebGPUKernels(capabilities.computeDtype);
    const features = [
      ...(hasF16 ? ['f16'] : []),
      ...(hasSubgroups ? ['subgroups'] : []),
      ...(hasMatrices ? ['subgroup matrices'] : []),
      `products in ${capabilities.computeDtype}`,
      ...(isTuned(backend) ? ['tiles by measurement'] : []),
    ];
    return {device: backend[OURS], features, computeDtype: capabilities.computeDtype};
  },
};

/**
 * Keys of the backend's properties: the card's name, with its driver too, by which a second copy of this file
 * recognizes it.
 */
const OURS = Symbol.for('tfjs-lora.webgpu');
const IDENTITY = Symbol.for('tfjs-lora.webgpu.identity');
type OurBackend = WebGPUBackend & {[OURS]: string; [IDENTITY]: string};

const isOurs = (backend: object): boolean => OURS in backend;

type Package = typeof import('@tensorflow/tfjs-backend-webgpu');

/** Loads the package. `navigator.gpu` must exist before its backend is made; in Node, Dawn provides it. */
async function loadPackage(isAsked: boolean, adapter?: string): Promise<Package> {
  if (!globalThis.navigator?.gpu) {
    if (!isNode()) throw unavailable('a browser without WebGPU');
    if (!isAsked && !(await mayHaveGraphicsCard())) throw unavailable('no graphics card');
    await startDawn(adapter);
  } else if (adapter !== undefined && adapter !== chosenAdapter) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `backend webgpu adapter: expected it in the first call of a process in Node, got ${show(adapter)} after WebGPU had ` +
        `started${chosenAdapter === undefined ? '' : ` with ${show(chosenAdapter)}`}. Start another process.`,
    );
  }
  try {
    return await import('@tensorflow/tfjs-backend-webgpu');
  } catch (error) {
    throw unavailable(`@tensorflow/tfjs-backend-webgpu, which does not load (${(error as Error).message})`);
  }
}

/** Name with which a card was chosen for the life of the process. */
let chosenAdapter: string | undefined;

async function startDawn(adapter?: string): Promise<void> {
  const dawn = await import('webgpu').catch((error: Error) => {
    throw unavailable(`no package webgpu (${error.message.split('\n')[0]}). npm install webgpu`);
  });
  if (isNode() && adapter !== undefined) process.env.TFJS_LORA_CARD_NAME = adapter; // for choose_card.cc, in a cluster
  const gpu = dawn.create([
    `enable-dawn-features=${DAWN_FEATURES}`,
    `disable-dawn-features=${DAWN_LEFT_OUT}`,
    ...(adapter === undefined ? [] : [`adapter=${adapter}`]),
  ]);
  chosenAdapter = adapter;
  alive.push(gpu);
  Object.assign(globalThis, dawn.globals);
  const navigator = globalThis.navigator ?? {};
  Object.defineProperty(navigator, 'gpu', {value: gpu, configurable: true});
  if (!globalThis.navigator) {
    Object.defineProperty(globalThis, 'navigator', {value: navigator, configurable: true});
  }
}

async function requestAdapter(isAsked: boolean): Promise<GPUAdapter> {
  const request = async () => navigator.gpu.requestAdapter({powerPreference: 'high-performance'});
  let missing = 'no graphics driver with WebGPU';
  const adapter = await (isAsked ? request() : withoutSoftwareDrivers(request)).catch((error: Error) => {
    missing = error.message.replaceAll(/\s*\n\s*/g, ' '); // for a wrong name, it lists the cards
  });
  if (adapter) return adapter;
  if (alive.includes(navigator.gpu)) delete (navigator as {gpu?: GPU}).gpu; // the next call may see other drivers
  throw unavailable(missing);
}

/**
 * Runs `request` with software drivers hidden from the loader of Vulkan, in Node. Dawn prints warnings about them, even
 * if it finds a card.
 */
function withoutSoftwareDrivers<T>(request: () => T): T {
  const variables = isNode() ? process.env : {};
  const choosing = [HIDDEN_DRIVERS, 'VK_DRIVER_FILES', 'VK_ICD_FILENAMES'];
  if (choosing.some((name) => name in variables)) return request();
  variables[HIDDEN_DRIVERS] = '*lvp*,*swiftshader*';
  try {
    return request(); // Dawn looks for drivers before it returns the promise
  } finally {
    delete variables[HIDDEN_DRIVERS];
  }
}

async function requestDevice(adapter: GPUAdapter): Promise<GPUDevice> {
  const device = await adapter.requestDevice({
    requiredFeatures: FEATURES.filter((feature) => adapter.features.has(feature)) as GPUFeatureName[],
    requiredLimits: Object.fromEntries(LIMITS.map((limit) => [limit, adapter.limits[limit]])),
  });
  alive.push(adapter, device);
  return device;
}

/** Whether a driver computes on the processor, for tests: SwiftShader, lavapipe. */
function isSoftware({info}: GPUAdapter): boolean {
  const names = `${info.architecture} ${info.device} ${info.description}`;
  return info.isFallbackAdapter || /software|swiftshader|llvmpipe|lavapipe/i.test(names);
}

function warnOfSoftware(name: string): void {
  warn(
    `backend webgpu (${name}): expected a graphics card, got a software driver, which computes on the processor and is ` +
      "for tests: it is far slower than wasm. Choose wasm, with useBackend('wasm') or --backend wasm, or install the " +
      "card's driver.",
  );
}

function identityOf({info}: GPUAdapter): string {
  return [info.vendor, info.architecture, info.device, info.description].join('/');
}

function nameOf({info}: GPUAdapter): string {
  return info.description.split(':')[0] || info.device || `${info.vendor} ${info.architecture}`.trim();
}

/**
 * Turns the loss of the device, and errors that WebGPU reports asynchronously (out of memory, a refused shader), into
 * an error of the next read. Every step, save and generation ends with a read.
 */
function watch(backend: WebGPUBackend, name: string): void {
  const {device} = backend;
  let failure: TfjsLoraError | undefined;
  const fail = (what: string, advice: string) => {
    failure ??= new TfjsLoraError(
      'DEVICE_LOST',
      `webgpu ${name}: expected a working device, got: ${what}. ${advice}`,
    );
  };
  void device.lost.then(({reason, message}) =>
    fail(
      `device lost (${message || reason})`,
      'What was saved before is intact. Start a new process, and lower the batch size if memory ran out',
    ),
  );
  device.onuncapturederror = ({error}) => fail(error.message, 'Do not trust results from now on');
  const read = backend.read.bind(backend);
  const guarded = async (dataId: tf.DataId) => {
    if (failure) throw failure;
    try {
      const values = await read(dataId);
      if (failure) throw failure;
      const entry = backend.tensorMap.get(dataId);
      if (entry?.resource) entry.values = null; // not kept, because optimizers change tensors in place
      return values;
    } catch (error) {
      throw failure ?? error;
    }
  };
  Object.assign(backend, {read: guarded});
}

/**
 * Makes a disposed tensor's buffer reusable immediately. The stock backend holds it back until the commands that use it
 * are submitted; but its next user is recorded after them, and the queue keeps the order. (Uniforms and staging
 * buffers, which the host writes outside that order, do not belong to tensors.) A step needs gigabytes less.
 */
function reuseAtOnce(backend: WebGPUBackend): void {
  const none = {add: () => none, has: () => false, delete: () => false};
  Object.defineProperty(backend, 'commandQueueOwnedIds', {get: () => none, set: () => {}});
}

function growSubmissions(backend: WebGPUBackend): void {
  let size = DISPATCHES.first;
  const change = (next: number) => {
    if (tf.env().getNumber(SUBMISSION_SIZE) !== size) return; // set by someone else
    size = next;
    tf.env().set(SUBMISSION_SIZE, size);
  };
  const submit = backend.submitQueue.bind(backend);
  const read = backend.read.bind(backend);
  Object.assign(backend, {
    submitQueue() {
      submit();
      change(Math.min(2 * size, DISPATCHES.most));
    },
    async read(dataId: tf.DataId) {
      const values = await read(dataId);
      change(DISPATCHES.first);
      return values;
    },
  });
}

function unavailable(got: string): TfjsLoraError {
  return new TfjsLoraError('BACKEND_UNAVAILABLE', `backend webgpu: expected WebGPU, got ${got}.`);
}

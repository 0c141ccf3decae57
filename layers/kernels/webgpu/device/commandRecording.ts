import * as tf from '@tensorflow/tfjs';
import type {Replay} from '../../../ops/backendTraits.ts';
import {newUniformBuffer, type Uniforms, writeUniforms} from './uniforms.ts';
import {submitRecorded, type WebGPUBackend} from './webgpuBackend.ts';

/** A dispatch. */
export interface Command {
  pipeline: GPUComputePipeline;
  group: GPUBindGroup;
  workgroups: [x: number, y?: number, z?: number];
}

/** The number of a buffer's loan; see {@link BufferPool.loanOf}. */
type Loan = number | undefined;

/** The dispatches that {@link runShader} reports while commands are recorded. */
export class CommandRecording {
  readonly commands: Command[] = [];
  /** Turns false when something happens that commands alone cannot repeat. */
  isWhole = true;
  /** Buffers that existed before the recording. */
  readonly outer = new Map<GPUBuffer, Loan>();
  /** Uniform buffers of stock programs, on loan from the pool. */
  readonly uniforms: GPUBuffer[] = [];
  /** Uniform buffers whose values grow. */
  readonly counters = new Map<string, {buffer: GPUBuffer; uniforms: Uniforms}>();

  constructor(
    private readonly backend: WebGPUBackend,
    private readonly made: ReadonlySet<GPUBuffer>,
  ) {}

  add(command: Command, buffers: GPUBuffer[]): void {
    this.commands.push(command);
    for (const buffer of buffers) {
      if (!this.made.has(buffer)) this.outer.set(buffer, this.backend.bufferManager.loanOf(buffer));
    }
  }

  /** Gives them back with the next submission, because commands not submitted yet may read them. */
  giveBackUniforms(): void {
    this.backend.uniformPendingDisposal.push(...this.uniforms);
  }

  /** Returns a uniform buffer for growing values, shared by those that start with equal values. */
  counterBuffer(key: string, uniforms: Uniforms): GPUBuffer {
    let counter = this.counters.get(key);
    if (!counter) {
      counter = {buffer: newUniformBuffer(this.backend, uniforms), uniforms};
      this.counters.set(key, counter);
    }
    return counter.buffer;
  }
}

const recordings = new WeakMap<WebGPUBackend, CommandRecording>();

/** Returns the current recording, if any. */
export function recordingOf(backend: WebGPUBackend): CommandRecording | undefined {
  return recordings.get(backend);
}

/** The recorder of a backend; see {@link recordReplay} in layers/ops. Uploads and copies cannot be recorded. */
export function recordCommands(
  backend: WebGPUBackend,
  inputs: tf.TensorInfo[],
  run: () => void,
): Replay | undefined {
  const pool = backend.bufferManager;
  for (const {dataId} of inputs) if (!backend.tensorMap.get(dataId).resource) backend.uploadToGPU(dataId);
  pool.trim(); // what a recording does not use would stay, because replays miss no buffer
  const made = new Set<GPUBuffer>();
  const recording = new CommandRecording(backend, made);
  recordings.set(backend, recording);
  pool.lent = made;
  const restore = watchCommands(backend, recording);
  let isWhole = false;
  try {
    run();
    isWhole =
      recording.isWhole &&
      [...made].every((buffer) => pool.has(buffer)) &&
      [...recording.outer].every(([buffer, loan]) => pool.loanOf(buffer) === loan);
  } finally {
    restore();
    pool.lent = undefined;
    recordings.delete(backend);
    if (!isWhole) recording.giveBackUniforms();
  }
  if (!isWhole) return undefined;
  // Buffers that are free again hold results between the ops: keep them for the next run. The rest have owners.
  const between = [...made].filter((buffer) => pool.hold(buffer));
  for (const buffer of [...between, ...recording.uniforms]) made.delete(buffer);
  for (const buffer of made) recording.outer.set(buffer, pool.loanOf(buffer));
  return new CommandReplay(backend, recording, between);
}

/** Reports to a recording what the stock backend does. @returns a function that ends this */
function watchCommands(backend: WebGPUBackend, recording: CommandRecording): () => void {
  const {recordAndSubmit, makeUniforms, copyBuffer, uploadToGPU} = backend;
  Object.assign(backend, {
    recordAndSubmit(program: unknown, output: tf.TensorInfo, inputs: tf.TensorInfo[], uniforms: unknown) {
      const pass = passOf(backend);
      const command = {} as Command;
      backend.computePassEncoder = {
        setPipeline(pipeline: GPUComputePipeline) {
          command.pipeline = pipeline;
          pass.setPipeline(pipeline);
        },
        setBindGroup(index: number, group: GPUBindGroup) {
          command.group = group;
          pass.setBindGroup(index, group);
        },
        dispatchWorkgroups(...workgroups: Command['workgroups']) {
          command.workgroups = workgroups;
          pass.dispatchWorkgroups(...workgroups);
        },
        end: () => pass.end(),
      } as GPUComputePassEncoder;
      recordAndSubmit.call(backend, program, output, inputs, uniforms);
      if (backend.computePassEncoder) backend.computePassEncoder = pass;
      const buffers = [output, ...inputs].map(
        ({dataId}) => backend.tensorMap.get(dataId).resource as GPUBuffer,
      );
      recording.add(command, buffers);
    },
    makeUniforms(values: unknown) {
      const binding = makeUniforms.call(backend, values);
      backend.uniformPendingDisposal.pop(); // it belongs to the recording now, which must keep its values
      recording.uniforms.push(binding.buffer);
      return binding;
    },
    copyBuffer(buffer: GPUBuffer) {
      recording.isWhole = false;
      return copyBuffer.call(backend, buffer);
    },
    uploadToGPU(dataId: tf.DataId) {
      if (backend.tensorMap.get(dataId).values) recording.isWhole = false; // otherwise it only makes the buffer
      uploadToGPU.call(backend, dataId);
    },
  });
  return () => Object.assign(backend, {recordAndSubmit, makeUniforms, copyBuffer, uploadToGPU});
}

class CommandReplay implements Replay {
  private runs = 0;
  private isDisposed = false;

  constructor(
    private readonly backend: WebGPUBackend,
    private readonly recording: CommandRecording,
    private readonly between: GPUBuffer[],
  ) {}

  get isCurrent(): boolean {
    const {bufferManager: pool} = this.backend;
    if (this.isDisposed) return false;
    for (const [buffer, loan] of this.recording.outer) if (pool.loanOf(buffer) !== loan) return false;
    return true;
  }

  run({copies = [], writes = []}: Parameters<Replay['run']>[0]): void {
    const {backend} = this;
    const bufferOf = ({dataId}: tf.TensorInfo) => backend.tensorMap.get(dataId).resource as GPUBuffer;
    backend.ensureCommandEncoderReady();
    backend.endComputePassEncoder();
    for (const [from, to] of copies) {
      const [source, target] = [bufferOf(from), bufferOf(to)];
      backend.commandEncoder?.copyBufferToBuffer(source, 0, target, 0, source.size);
    }
    submitRecorded(backend); // recorded commands must not see these writes
    for (const [to, values] of writes) backend.queue.writeBuffer(bufferOf(to), 0, values as BufferSource);
    this.runs++;
    for (const {buffer, uniforms} of this.recording.counters.values())
      writeUniforms(backend, buffer, uniforms, this.runs);
    for (const command of this.recording.commands) encode(backend, command);
    submitRecorded(backend);
  }

  dispose(): void {
    if (this.isDisposed) return;
    this.isDisposed = true;
    this.recording.giveBackUniforms();
    for (const buffer of this.between) this.backend.bufferManager.releaseBuffer(buffer);
  }
}

/** Adds a dispatch to the backend's own commands. */
export function encode(backend: WebGPUBackend, {pipeline, group, workgroups}: Command): void {
  const pass = passOf(backend);
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(...workgroups);
  backend.dispatchCountInPass++;
  if (backend.dispatchCountInPass >= tf.env().getNumber('WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE')) {
    submitRecorded(backend);
  }
}

function passOf(backend: WebGPUBackend): GPUComputePassEncoder {
  backend.ensureCommandEncoderReady();
  backend.computePassEncoder ??= (backend.commandEncoder as GPUCommandEncoder).beginComputePass();
  return backend.computePassEncoder;
}

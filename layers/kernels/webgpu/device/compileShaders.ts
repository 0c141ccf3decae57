import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import type {CompileProgress} from '../../../ops/backendTraits.ts';
import {compileAside, type DryRun, setDryRun} from './runShader.ts';
import {tuneMet} from './tuning.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

/**
 * The flag with which TensorFlow.js compiles its own shaders without dispatching them; `pipelineCache` then holds
 * promises.
 */
const COMPILE_ONLY = 'WEBGPU_ENGINE_COMPILE_ONLY';

/**
 * {@link compileShaders} of layers/ops on webgpu: calls `run` once without dispatching, and compiles the shaders it
 * needed. A shader that cannot be compiled counts as well; running it reports the error. Tuning of shapes comes first.
 */
export async function compileShaders(
  backend: WebGPUBackend,
  run: () => void,
  onProgress?: CompileProgress,
): Promise<void> {
  let {shaders, programs} = runDry(backend, run);
  const {device, pipelineCache} = backend;
  const pipelines = programs.map(async ([key, pipeline]) => {
    pipelineCache[key] = await pipeline;
  });
  if (await tuneMet(backend)) {
    await Promise.allSettled(pipelines); // for the second run to find them
    ({shaders} = runDry(backend, run));
  }
  pipelines.push(...[...shaders.values()].map((shader) => compileAside(device, shader)));
  const total = pipelines.length;
  if (total === 0) return;
  await onProgress?.(0, total);
  let compiled = 0;
  await Promise.all(
    pipelines.map(async (pipeline) => {
      await pipeline.catch(() => {});
      await onProgress?.(++compiled, total);
    }),
  );
}

/**
 * Calls `run` without dispatching.
 *
 * @returns the missing shaders: ours, and TensorFlow.js's, which are already being compiled
 * @throws TfjsLoraError `UNSUPPORTED` when tensors are left behind, because they have no values
 */
function runDry(
  backend: WebGPUBackend,
  run: () => void,
): Pick<DryRun, 'shaders'> & {programs: [key: string, pipeline: Promise<GPUComputePipeline>][]} {
  const met: DryRun = {shaders: new Map(), outputs: []};
  const programs: [string, Promise<GPUComputePipeline>][] = [];
  const first = backend.nextDataId();
  const {device, pipelineCache, runWebGPUProgram} = backend;
  setDryRun(device, met);
  tf.env().set(COMPILE_ONLY, true);
  backend.runWebGPUProgram = (...args) => {
    const output = runWebGPUProgram.apply(backend, args);
    met.outputs.push(output.dataId);
    return output;
  };
  try {
    tf.tidy(run);
  } finally {
    backend.runWebGPUProgram = runWebGPUProgram;
    tf.env().set(COMPILE_ONLY, false);
    setDryRun(device, undefined);
    for (const [key, pipeline] of Object.entries(pipelineCache)) {
      if (!('then' in pipeline)) continue;
      delete pipelineCache[key]; // a run before it is compiled compiles it immediately
      pipeline.catch(() => {});
      programs.push([key, pipeline]);
    }
  }
  const isLeft = (dataId: tf.DataId) => (dataId as {id: number}).id >= first && backend.refCount(dataId) > 0;
  const left = new Set(met.outputs.filter(isLeft)).size;
  if (left > 0) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `compileShaders: expected a run that keeps no tensor, got one that keeps ${left} although nothing was computed. ` +
        'Make what keeps them again, and compile the model with compileShaders: false.',
    );
  }
  return {shaders: met.shaders, programs};
}

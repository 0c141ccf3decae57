import {HALVES, HALVES_HEADER} from '../device/halves.ts';
import {sizeOf} from '../device/octets.ts';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

interface GateAndUp {
  gate: RowsView;
  up: RowsView;
}

/**
 * `SwiGLU` (layers/ops/swiGLU.ts) of float16 in int32 `[rows, cols / 2]`, all row by row or all in octets; `cols` is a
 * multiple of 4.
 */
export function gateRows(backend: WebGPUBackend, {gate, up}: GateAndUp, y: RowsView): void {
  const count = sizeOf(y) / 2;
  runShader(backend, {shader: forward(), buffers: {y, gate, up}, uniforms: {count}, threads: count});
}

const forward = shader(() => ({
  name: 'GateRows',
  outputs: {y: 'vec2u'},
  inputs: {gate: 'vec2u', up: 'vec2u'},
  uniforms: {count: 'u32'},
  workgroup: 256,
  header: HALVES_HEADER,
  globals: HALVES,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.count) { return; }
  let g = widened(gate[i]);
  y[i] = halved(g / (1.0 + exp(-g)) * widened(up[i]));`,
}));

/**
 * The gradients of gate and up, in the units of `dy`.
 *
 * @param gradients where they go; by default they replace gate and up
 */
export function gateRowsGrad(
  backend: WebGPUBackend,
  {gate, up}: GateAndUp,
  dy: RowsView,
  gradients?: GateAndUp,
): void {
  const count = sizeOf(dy) / 2;
  const uniforms = {count};
  if (gradients) {
    const buffers = {dGate: gradients.gate, dUp: gradients.up, dy, gate, up};
    runShader(backend, {shader: backward(), buffers, uniforms, threads: count});
  } else {
    runShader(backend, {shader: backwardInPlace(), buffers: {gate, up, dy}, uniforms, threads: count});
  }
}

const gradientInto = (dGate: string, dUp: string) =>
  ({
    name: 'GateRowsGrad',
    uniforms: {count: 'u32'},
    workgroup: 256,
    header: HALVES_HEADER,
    globals: HALVES,
    body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.count) { return; }
  let g = widened(gate[i]);
  let slope = widened(dy[i]);
  let sigmoid = 1.0 / (1.0 + exp(-g));
  let silu = g * sigmoid;
  ${dGate}[i] = halved(slope * widened(up[i]) * (sigmoid + silu * (1.0 - sigmoid)));
  ${dUp}[i] = halved(slope * silu);`,
  }) as const;

const backward = shader(() => ({
  ...gradientInto('dGate', 'dUp'),
  outputs: {dGate: 'vec2u', dUp: 'vec2u'},
  inputs: {dy: 'vec2u', gate: 'vec2u', up: 'vec2u'},
}));

const backwardInPlace = shader(() => ({
  ...gradientInto('gate', 'up'),
  outputs: {gate: 'vec2u', up: 'vec2u'},
  inputs: {dy: 'vec2u'},
}));

import * as tf from '@tensorflow/tfjs';
import {dynamicMap} from '../../../../quant/blockwise/codebooks.ts';
import {codesOfSteps} from '../../../../quant/blockwise/dynamic8Bit.ts';
import {blockwise8bitShapes, fromBlockwise8bitOp, toBlockwise8bitOp} from '../../../ops/blockwise8bit.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';

/** Number of words, each of four codes, in a block. */
const WORDS_PER_BLOCK = 64;

/** `FromBlockwise8bit` (layers/ops/blockwise8bit.ts), a thread per word. */
export const fromBlockwise8bit = kernel(fromBlockwise8bitOp, 'webgpu', ({inputs, attrs, backend}) => {
  const size = tf.util.sizeFromShape(attrs.shape);
  const values = backend.makeTensorInfo(attrs.shape, 'float32');
  if (size === 0) return values;
  const table = new Float32Array(dynamicMap(attrs.isSigned));
  const map = backend.makeTensorInfo([table.length], 'float32', table);
  const {codes, absmax} = inputs;
  runShader(backend, {
    shader: fromCodes(),
    buffers: {values, codes, absmax, map},
    uniforms: {size},
    threads: Math.ceil(size / 4),
  });
  backend.disposeData(map.dataId);
  return values;
});

/**
 * `ToBlockwise8bit` (layers/ops/blockwise8bit.ts), a workgroup per block, a thread per word. Bisecting the first step
 * of every code finds the code of a value's step among the 65,536.
 */
export const toBlockwise8bit = kernel(toBlockwise8bitOp, 'webgpu', ({inputs, attrs, backend}) => {
  const size = tf.util.sizeFromShape(inputs.values.shape);
  const shapes = blockwise8bitShapes(size);
  const codes = backend.makeTensorInfo(shapes.codes, 'int32');
  const absmax = backend.makeTensorInfo(shapes.absmax, 'float32');
  if (size === 0) return [codes, absmax];
  const [blocks] = shapes.absmax;
  const table = firstStepsOf(attrs.isSigned);
  const firstSteps = backend.makeTensorInfo([table.length], 'int32', table);
  runShader(backend, {
    shader: toCodes(),
    buffers: {codes, absmax, values: inputs.values, firstSteps},
    uniforms: {size, blocks},
    workgroups: blocks,
  });
  backend.disposeData(firstSteps.dataId);
  return [codes, absmax];
});

const fromCodes = shader(() => ({
  name: 'FromBlockwise8bit',
  outputs: {values: 'f32'},
  inputs: {codes: 'u32', absmax: 'f32', map: 'f32'},
  uniforms: {size: 'u32'},
  workgroup: 256,
  body: `
  let word = flatGroup * WORKGROUP + local;
  if (4u * word >= u.size) { return; }
  let scale = absmax[word / ${WORDS_PER_BLOCK}u];
  let packed = codes[word];
  for (var i = 0u; i < 4u && 4u * word + i < u.size; i++) {
    values[4u * word + i] = map[(packed >> (8u * i)) & 0xffu] * scale;
  }`,
}));

const toCodes = shader(() => ({
  name: 'ToBlockwise8bit',
  outputs: {codes: 'u32', absmax: 'f32'},
  inputs: {values: 'f32', firstSteps: 'u32'},
  uniforms: {size: 'u32', blocks: 'u32'},
  workgroup: WORDS_PER_BLOCK,
  globals: `
var<workgroup> largest: array<f32, WORKGROUP>;
fn codeOf(normal: f32) -> u32 {
  let step = u32((clamp(normal, -1.0, 1.0) + 1.0) * 0.5 * 65535.0 + 0.5);
  var code = 0u;
  for (var half = 128u; half > 0u; half /= 2u) {
    if (firstSteps[code + half] <= step) { code += half; }
  }
  return code;
}`,
  body: `
  let block = flatGroup;
  if (block >= u.blocks) { return; }
  let word = block * WORKGROUP + local;
  let count = clamp(i32(u.size) - i32(4u * word), 0, 4);
  var own = vec4f();
  for (var i = 0; i < count; i++) { own[i] = values[4u * word + u32(i)]; }
  let magnitudes = abs(own);
  largest[local] = max(max(magnitudes.x, magnitudes.y), max(magnitudes.z, magnitudes.w));
  workgroupBarrier();
  for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
    if (local < width) { largest[local] = max(largest[local], largest[local + width]); }
    workgroupBarrier();
  }
  let scale = largest[0];
  if (local == 0u) { absmax[block] = scale; }
  if (count == 0) { return; }
  var packed = 0u;
  if (scale > 0.0) {
    for (var i = 0; i < count; i++) { packed |= codeOf(own[i] * (1.0 / scale)) << (8u * u32(i)); }
  }
  codes[word] = packed;`,
}));

/** Returns int32 [256]: the first step whose code is at least this one. */
function firstStepsOf(isSigned: boolean): Int32Array {
  const codes = codesOfSteps(dynamicMap(isSigned));
  const first = new Int32Array(256);
  for (let step = 0, code = 0; code < 256; code++) {
    while (step < codes.length && codes[step] < code) step++;
    first[code] = step;
  }
  return first;
}

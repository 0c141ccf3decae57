import type * as tf from '@tensorflow/tfjs';
import {HALVES} from '../device/halves.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {runShader} from '../device/runShader.ts';
import {times} from '../device/times.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {declareSums, fitted, type Layout, MATRIX_HEADER, writeSums} from '../products/matrixTiles.ts';
import {type AttentionCall, attentionShader, kindOf, uniformsOf} from './attentionShader.ts';
import {changes, factorOf, type GradOperands, PACKED, partsOf} from './gradOperands.ts';
import {LOG2E, memoryOf, overKeys, rowsOf} from './matrixAttention.ts';

/** How workgroups share queries. */
const QUERY: Layout = {subgroups: 4, blocks: 2, cols: 16, steps: 4};
/** For heads of more than 64 numbers. */
const QUERY_WIDE: Layout = {subgroups: 8, blocks: 1, cols: 16, steps: 2};

/**
 * Returns the gradient of the query, `[B, H, T, D]`.
 *
 * @param isPacked whether it is float16, each row to be multiplied by the scale of its slope. Default false: float32
 */
export function gradQuery(
  backend: WebGPUBackend,
  call: AttentionCall,
  operands: GradOperands,
  isPacked = false,
): tf.TensorInfo {
  const {query, segments} = call.inputs;
  const [batch, heads, length, dim] = query.shape;
  const {keepsOrder} = capabilitiesOf(backend);
  const layout = fitted(backend, dim > 64 ? QUERY_WIDE : QUERY, (tried) =>
    memoryOf(tried, dim, partsOf(dim)),
  );
  const dQuery = isPacked
    ? makeScratch(backend, [batch * heads * length, dim / 2], 'int32')
    : backend.makeTensorInfo(query.shape, 'float32');
  runShader(backend, {
    shader: backwardQuery(kindOf(call), layout, keepsOrder, isPacked),
    buffers: {dQuery, segments, ...operands},
    uniforms: uniformsOf(call),
    workgroups: [batch * heads, Math.ceil(length / rowsOf(layout))],
  });
  return dQuery;
}

const backwardQuery = attentionShader((kind, layout: Layout, keepsOrder: boolean, isPacked: boolean) => {
  const {dim} = kind;
  const {blocks} = layout;
  const parts = partsOf(dim);
  const {shape, threads, exchange, ...keys} = overKeys(kind, layout, keepsOrder, parts);
  return {
    name: 'MatrixAttentionGradQuery',
    outputs: {dQuery: isPacked ? 'vec2u' : 'vec4f'},
    inputs: {...PACKED, logSums: 'f32', rowTerms: 'vec2f', scales: isPacked ? undefined : 'f32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `${HALVES}
${keys.globals}`,
    body: `
  ${keys.place}
  ${keys.segment}
  let row = rowOfHead + min(t, u.length - 1u);
  let logSum = logSums[row] * ${LOG2E};
  let product = rowTerms[row].y;
  ${keys.loadRows('q', 'query')}
  ${keys.loadRows('g', 'slopes')}
  ${declareSums('out', blocks, dim)}
  ${keys.end}
  ${keys.registers}
  ${keys.throughTiles(
    (step) => `
        ${exchange.multiply('q', 'tileK', step)}
        ${exchange.wait}
        ${exchange.read('score')}
        ${exchange.wait}
        ${exchange.multiply('g', 'tileV', step, parts)}
        ${exchange.wait}
        ${exchange.read('slope', parts)}
        ${exchange.bound(kind)}
        ${keys.hide}
        ${times(exchange.vectors, (i) => `score${i} = ${changes(`exp2(score${i} - logSum)`, `slope${i}`, 'product', factorOf(kind, `score${i}`))};`)}
        ${exchange.write('score')}
        ${exchange.wait}
        ${exchange.accumulate('out', 'tileK', step)}
        ${exchange.wait}`,
  )}
  ${writeSums(
    'out',
    shape,
    `if (firstRow + r < u.length) {
        let at = rowOfHead + firstRow + r;
        dQuery[at * V + col] = ${isPacked ? 'halved(u.scale * sum)' : 'u.scale * scales[at] * sum'};
      }`,
  )}`,
  };
});

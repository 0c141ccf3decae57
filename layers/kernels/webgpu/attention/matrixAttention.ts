import type * as tf from '@tensorflow/tfjs';
import {runShader} from '../device/runShader.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {
  accumulate,
  declareSums,
  fitted,
  type Layout,
  loadLeft,
  MATRIX_HEADER,
  PADDING,
  scoresOf,
  throughScores,
  tileOf,
} from '../products/matrixTiles.ts';
import {
  type AttentionCall,
  type AttentionKind,
  attentionShader,
  endOfKeys,
  kindOf,
  uniformsOf,
} from './attentionShader.ts';
import {packHalves} from './packHalves.ts';

/** Number of subgroups in a workgroup, of blocks of 16 queries in each, and of keys in a tile. */
export const FORWARD: Layout = {subgroups: 4, blocks: 2, cols: 32};

/** Whether the shaders take heads of this size: they need whole matrices and tiles that fit workgroup memory. */
export const fitsMatrices = (dim: number, length: number): boolean =>
  dim % 16 === 0 && dim <= 128 && length >= 16;

/** Scores are in units of log 2, because the card has `exp2`. */
export const LOG2E = Math.LOG2E;

/** Returns the workgroup memory of a subgroup: its scores in float32 and `matrices` of them in float16. */
export const scratchBytes = ({blocks, cols}: Layout, matrices: number): number =>
  16 * blocks * (4 * (cols + 4) + matrices * 2 * (cols + PADDING));

/** Returns the number of rows of a workgroup. */
export const rowsOf = ({subgroups, blocks}: Layout): number => 16 * blocks * subgroups;

/** Returns the workgroup memory of a tile. */
export const tileBytes = ({cols}: Layout, dim: number): number => 2 * cols * (dim + PADDING);

/** WGSL that finds a lane's own elements of the subgroup's rows; with 16 rows, two lanes share one. */
export function lanesOf({blocks, cols}: {blocks: number; cols: number}) {
  const perRow = 2 / blocks;
  const width = cols / perRow;
  return {
    width,
    declarations: `
  let laneRow = subgroup * ${16 * blocks}u + lane / ${perRow}u;
  let part = (lane % ${perRow}u) * ${width}u; // the lane's first column
  let region = subgroup * ${16 * blocks * (cols + 4)}u;
  let mine = laneRow * ${cols + 4}u + part;
  let weightRegion = subgroup * ${16 * blocks * (cols + PADDING)}u;
  let weightAt = laneRow * ${cols + PADDING}u + part;`,
    /** Reduces over the lanes of a row. */
    overRow: (reduce: (other: string) => string, value: string) =>
      perRow === 2 ? reduce(`subgroupShuffleXor(${value}, 1u)`) : value,
  };
}

/**
 * WGSL that writes the lane's elements of the sums `name00` … to its row of `output` (`array<vec4f>`), times WGSL
 * `scale`.
 */
export const writeRows = (
  name: string,
  output: string,
  {
    blocks,
    dim,
    cols,
    row,
    isThere,
    scale,
  }: {blocks: number; dim: number; cols: number} & Record<'row' | 'isThere' | 'scale', string>,
): string =>
  throughScores(
    name,
    {blocks, dim, cols, at: 'region'},
    (col) => `if (${isThere}) {
      ${times(
        lanesOf({blocks, cols}).width / 4,
        (i) => `${output}[(${row}) * V + ${col / 4 + i}u + part / 4u] = (${scale}) *
        vec4f(scores[mine + ${4 * i}u], scores[mine + ${4 * i + 1}u], scores[mine + ${4 * i + 2}u], scores[mine + ${4 * i + 3}u]);`,
      )}
    }`,
  );

/**
 * `Attention` by subgroup matrices: float16 operands, float32 sums. Weights are powers of two relative to a reference
 * of each query, the highest score of its first keys. Sums in registers cannot be scaled row by row, so the reference
 * changes only if a score is 2¹⁰ times above it. Then the sums go through workgroup memory, which is rare.
 */
export function matrixAttention(backend: WebGPUBackend, call: AttentionCall): tf.TensorInfo[] {
  const {inputs} = call;
  const {query, segments} = inputs;
  const [batch, heads, length, dim] = query.shape;
  const layout = fitted(backend, FORWARD, dim, (tried) => [
    scratchBytes(tried, 1),
    2 * tileBytes(tried, dim) + 16,
  ]);
  const y = backend.makeTensorInfo(query.shape, 'float32');
  const logSums = backend.makeTensorInfo([batch, heads, length], 'float32');
  const packed = packHeads(backend, call);
  runShader(backend, {
    shader: forward(kindOf(call), layout),
    buffers: {y, logSums, query: packed[0], key: packed[1], value: packed[2], segments},
    uniforms: uniformsOf(call),
    workgroups: [Math.ceil(length / rowsOf(layout)), batch * heads],
  });
  for (const {dataId} of packed) backend.disposeData(dataId);
  return [y, logSums];
}

/**
 * Returns query, times its factor, key and value as float16, to be disposed. Those that are int32 `[B, H, T, D]` are
 * packed already, the query with its factor: `scale · LOG2E`.
 */
export function packHeads(backend: WebGPUBackend, {inputs, attrs}: AttentionCall): tf.TensorInfo[] {
  const {query, key, value} = inputs;
  if (query.dtype === 'int32') {
    for (const {dataId} of [query, key, value]) backend.incRef(dataId);
    return [query, key, value];
  }
  return packHalves(backend, [
    [query, attrs.scale * LOG2E],
    [key, 1],
    [value, 1],
  ]);
}

const forward = attentionShader((kind, layout: Layout) => {
  const {dim} = kind;
  const {blocks, cols} = layout;
  const {shape, rows, threads, width, overRow, ...keys} = overKeys(kind, layout);
  return {
    name: 'MatrixAttention',
    outputs: {y: 'vec4f', logSums: 'f32'},
    inputs: {query: 'vec4u', key: 'vec4u', value: 'vec4u'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `${keys.tiles}
var<workgroup> weights: array<f16, ${rows * (cols + PADDING)}>;
var<workgroup> isAbove: vec4u; // x: a score is far above its query's reference; four, so that matrices are aligned to 16 bytes`,
    body: `
  ${keys.place}
  ${keys.segment}
  ${keys.loadRows('q', 'query', 'weights')}
  ${declareSums('out', blocks, dim)}
  ${keys.end}
  var reference = -1.0e30;
  var total = 0.0;
  ${keys.loop(`
    var top = score0;
    ${times(width - 1, (i) => `top = max(top, score${i + 1});`)}
    top = ${overRow((other) => `max(top, ${other})`, 'top')};
    var factor = 1.0;
    if (top > reference + 10.0) {
      if (reference > -1.0e30) { factor = exp2(reference - top); isAbove.x = 1u; }
      reference = top;
      total *= factor;
    }
    ${times(
      width,
      (i) =>
        `{ let weight = exp2(score${i} - reference); total += weight; weights[weightAt + ${i}u] = f16(weight); }`,
    )}
    if (workgroupUniformLoad(&isAbove).x != 0u) {
      ${throughScores('out', {...shape, at: 'region'}, () => times(width, (i) => `scores[mine + ${i}u] *= factor;`), true)}
      isAbove.x = 0u;
    }
    ${accumulate('out', 'weights', 'weightRegion', 'tileV', shape)}`)}
  total = ${overRow((other) => `total + ${other}`, 'total')};
  let sees = total > 0.0;
  if (t < u.length && part == 0u) {
    logSums[rowOfHead + t] = select(3.0e38, (reference + log2(total)) * ${Math.LN2}, sees); // 3e38: sees nothing
  }
  let inverse = select(0.0, 1.0 / total, sees);
  workgroupBarrier();
  ${writeRows('out', 'y', {...shape, row: 'rowOfHead + t', isThere: 't < u.length', scale: 'inverse'})}`,
  };
});

/**
 * WGSL of the shaders in which a workgroup has rows of queries and goes through the keys that they see, tile by tile.
 * While a tile is used, the next one is on its way in registers.
 */
export function overKeys(kind: AttentionKind, layout: Layout) {
  const {dim} = kind;
  const {subgroups, blocks, cols} = layout;
  const shape = {blocks, dim, cols};
  const rows = rowsOf(layout);
  const threads = 32 * subgroups;
  const {width, declarations, overRow} = lanesOf(shape);
  const [keys, values] = [
    tileOf('tileK', 'key', {rows: cols, dim, base: 'source', threads}),
    tileOf('tileV', 'value', {rows: cols, dim, base: 'source', threads}),
  ];
  return {
    shape,
    rows,
    threads,
    width,
    overRow,
    tiles: `
var<workgroup> tileK: array<f16, ${cols * (dim + PADDING)}>;
var<workgroup> tileV: array<f16, ${cols * (dim + PADDING)}>;
var<workgroup> scores: array<f32, ${rows * (cols + 4)}>;`,
    /** Declares the workgroup's place and each lane's query `t`. */
    place: `
  let first = (groups.x - 1u - group.x) * ${rows}u; // the longest first
  let head = group.y;
  let source = sourceOf(head);
  let rowOfHead = head * u.length;
  ${declarations}
  let t = first + laneRow;`,
    segment: 'let segment = segmentOf(head, min(t, u.length - 1u) + u.past);',
    /** Loads the workgroup's rows of `source` as the left operand of products. */
    loadRows: (name: string, source: string, scratch: string) =>
      loadLeft(
        name,
        source,
        scratch,
        {base: 'rowOfHead', first: 'first', limit: 'u.length'},
        {...shape, subgroups},
      ),
    end: `let end = ${endOfKeys(kind, `${rows}u`)};`,
    /**
     * Goes through the keys up to `end`, with the rows loaded as `q`. `use` reads each lane's `score0` …; those of hidden
     * keys are −3e38.
     */
    loop: (use: string) => `
  ${keys.registers}
  ${values.registers}
  ${keys.load('0u', 'end')}
  ${values.load('0u', 'end')}
  for (var s0 = 0u; s0 < end; s0 += ${cols}u) {
    workgroupBarrier();
    ${keys.store}
    ${values.store}
    workgroupBarrier();
    if (s0 + ${cols}u < end) {
      ${keys.load(`(s0 + ${cols}u)`, 'end')}
      ${values.load(`(s0 + ${cols}u)`, 'end')}
    }
    ${scoresOf('q', 'tileK', 'region', shape)}
    workgroupBarrier();
    ${times(width, (i) => `var score${i} = scores[mine + ${i}u];`)}
    if (${isPartial(kind, cols, 'first', 's0', 'end')}) {
      let s = s0 + part;
      ${hideScores(width, (i) => `(s + ${i}u >= end) | !isVisible(head, t, s + ${i}u, segment)`)}
    }
    ${use}
  }`,
  };
}

/** WGSL that hides those scores i of the lane for which `isHidden(i)`. */
export const hideScores = (width: number, isHidden: (i: number) => string): string =>
  times(width, (i) => `if (${isHidden(i)}) { score${i} = -3.0e38; }`);

/** Returns WGSL for whether some query from `first` on may not see some of the `cols` keys from `s0` on. */
function isPartial(
  {causal, hasSegments}: AttentionKind,
  cols: number,
  first: string,
  s0: string,
  end: string,
): string {
  if (hasSegments) return 'true';
  const isPastEnd = `${s0} + ${cols}u > ${end}`;
  return causal ? `${isPastEnd} || ${s0} + ${cols - 1}u > ${first} + u.past` : isPastEnd;
}

import {HALVES} from '../device/halves.ts';
import {typed} from '../device/shader.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {
  accumulate,
  declareSums,
  fitted,
  HALF_SUM,
  halfStride,
  type Layout,
  loadLeft,
  MATRIX_HEADER,
  scoresOf,
  tileOf,
  writeSums,
} from '../products/matrixTiles.ts';
import {attentionShader, endOfQueries} from './attentionShader.ts';
import {changes, factorOf, lanesOf} from './matrixAttention.ts';

/**
 * Teams of `blocks` subgroups share `16 · blocks` keys. Half of a team multiplies keys by queries and weights by slopes, the
 * other half values by slopes and changes of scores by queries, each an equal share of a head. So a matrix from a tile serves
 * `blocks` products, and the matrices of a head of 128 numbers fill a subgroup's registers, as without teams.
 */
export const TEAMS: Layout = {subgroups: 8, blocks: 4, cols: 16, steps: 1};

/** Number of parts in which products over a head are summed in float16; see `partsOf`. */
const PARTS = 2;

/** Places of a row of keys in workgroup memory: the parts of its scores or slopes, and what weighs the rows of a tile. */
const placesOf = ({blocks, cols}: Layout, dim: number) => {
  const weights = (PARTS * cols) / 8;
  const stride = weights + halfStride(cols);
  /** Vectors of a tile, of both tiles, of a team's scores, and of the scores and slopes of one subgroup's keys. */
  const tile = cols * halfStride(dim);
  return {weights, stride, tile, side: 16 * blocks * stride, region: 2 * 16 * stride};
};

/** Returns the layout of teams for heads of this size, or undefined where they do not fit a head or the device. */
export function layoutOfTeams(backend: WebGPUBackend, dim: number): Layout | undefined {
  const blocks = dim % (8 * TEAMS.blocks) === 0 ? TEAMS.blocks : 2;
  const layout = fitted(backend, {...TEAMS, blocks}, (tried) => {
    const {tile, region} = placesOf(tried, dim);
    return 16 * (4 * tile + tried.subgroups * region + tried.cols);
  });
  return dim > 64 && layout.subgroups >= blocks ? layout : undefined;
}

/** Gradients of key and value of `16 · subgroups` keys; see {@link TEAMS}. */
export const teamKeyValueGrad = attentionShader((kind, layout: Layout) => {
  const {dim, causal, hasSegments, hasWindow} = kind;
  const {subgroups, blocks, cols} = layout;
  const {weights, stride, tile, side, region} = placesOf(layout, dim);
  const shares = blocks / 2;
  const own = dim / shares; // numbers of a head that a subgroup multiplies
  const shape = {blocks, cols, dim: own, rowSize: dim, stride};
  const rows = 16 * subgroups;
  const threads = 32 * subgroups;
  const parts = PARTS / shares;
  const queries = tileOf('tileQ', 'query', {rows: cols, dim, threads, array: 'tiles'});
  const slopes = tileOf('tileG', 'slopes', {rows: cols, dim, threads, array: 'tiles'});
  const lanes = lanesOf(cols / 2, cols / 8);
  const isPastDiagonal = causal ? ' || firstOwn + 15u > t0 + u.past' : '';
  const isPartial =
    hasSegments || hasWindow
      ? 'true'
      : `t0 + ${cols}u > u.length || firstOwn + 16u > u.sourceLength${isPastDiagonal}`;
  const terms = (name: string, i: number) => `${name}[buffer * ${cols / 4}u + part / 4u + ${i}u]`;
  // Loads what comes next: the tile of queries of head `nextHead` from `nextT` on.
  const loadNext = `
      ${queries.load('nextT', 'nextHead * u.length', 'u.length')}
      ${slopes.load('nextT', 'nextHead * u.length', 'u.length')}
      if (local < ${cols}u) { nextTerms = rowTerms[nextHead * u.length + min(nextT + local, u.length - 1u)]; }
      nextT += ${cols}u;
      if (nextT >= lastQuery) { nextT = start; nextHead = min(nextHead + 1u, lastHead); }`;
  const store = (buffer: string) => `
      ${queries.store(`(${buffer}) * ${2 * tile}u`)}
      ${slopes.store(`(${buffer}) * ${2 * tile}u + ${tile}u`)}
      if (local < ${cols}u) {
        let at = (${buffer}) * ${cols}u + local;
        queryLogs[at / 4u][at % 4u] = nextTerms.x + unit; // weights are at most 1
        queryAlong[at / 4u][at % 4u] = nextTerms.y;
      }`;
  return {
    name: 'MatrixAttentionGradKeyValue',
    outputs: {dKey: 'vec4f', dValue: 'vec4f'},
    inputs: {...typed(['query', 'key', 'value', 'slopes'], 'vec4u'), rowTerms: 'vec2f', largest: 'f32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `${HALVES}
${HALF_SUM}
var<workgroup> tiles: array<vec4u, ${4 * tile}>; // in two buffers
var<workgroup> scores: array<vec4u, ${subgroups * region}>;
var<workgroup> queryLogs: array<vec4f, ${cols / 2}>;
var<workgroup> queryAlong: array<vec4f, ${cols / 2}>;
fn keyOrValue(isValue: bool, i: u32) -> vec4u {
  if (isValue) { return value[i]; }
  return key[i];
}`,
    body: `
  let source = group.x * u.sourceLength;
  let first = group.y * ${rows}u; // the longest of all heads first
  let sharing = u.heads / u.groups;
  let team = subgroup / ${blocks}u;
  let member = subgroup % ${blocks}u;
  let side = member / ${shares}u; // 0: scores, and the gradient of values; 1: slopes, and that of keys
  let share = member % ${shares}u;
  let firstRow = first + team * ${16 * blocks}u;
  // As lanes, each subgroup has 16 of the team's keys.
  let firstOwn = first + subgroup * 16u;
  let s = firstOwn + lane % 16u;
  let part = lane / 16u * ${cols / 2}u; // the lane's first column
  let mine = team * ${2 * side}u + (16u * member + lane % 16u) * ${stride}u + part / 8u;
  let sideScores = team * ${2 * side}u + side * ${side}u;
  let ownScores = sideScores + share * ${(parts * cols) / 8}u;
  let ownWeights = sideScores + ${weights}u;
  let ownLeft = side * ${tile}u + share * ${own / 8}u;
  let ownRight = (1u - side) * ${tile}u + share * ${own / 8}u;
  let region = subgroup * ${region}u; // outside the loop
  let unit = select(0.0, log2(largest[0]), largest[0] > 0.0);
  ${loadLeft(
    'left',
    (i) => `keyOrValue(side == 1u, ${i} + share * ${own / 8}u)`,
    {base: 'source', first: 'firstRow', limit: 'u.sourceLength'},
    shape,
  )}
  ${declareSums('out', blocks, own)}
  ${queries.registers}
  ${slopes.registers}
  var nextTerms: vec2f;
  let start = ${causal ? 'first - min(first, u.past)' : '0u'};
  let lastHead = group.x * sharing + sharing - 1u;
  var nextHead = group.x * sharing;
  var nextT = start;
  var head = nextHead;
  var t0 = start;
  let lastQuery = ${endOfQueries(kind, 'first', rows)};
  let tiles1 = sharing * ((lastQuery - start + ${cols - 1}u) / ${cols}u);
  ${loadNext}
  ${store('0u')}
  ${loadNext}
  workgroupBarrier();
  for (var tile = 0u; tile < tiles1; tile++) {
    let buffer = tile % 2u;
    let at = buffer * ${2 * tile}u;
    ${times(parts, (part) => scoresOf('left', 'tiles', 'at + ownLeft', `ownScores + ${(part * cols) / 8}u`, shape, {part, parts}))}
    workgroupBarrier();
    ${lanes.read('score', PARTS)}
    ${lanes.read('slope', PARTS, `mine + ${side}u`)}
    ${lanes.bound(kind)}
    if (${isPartial}) {
      let t = t0 + part;
      ${lanes.hide(
        (column) =>
          `(t + ${column} >= u.length) | (s >= u.sourceLength) | !isVisible(head, t + ${column}, s, segmentOf(head, t + ${column} + u.past))`,
      )}
    }
    ${times(
      lanes.vectors,
      (i) => `
    let weight${i} = exp2(score${i} - ${terms('queryLogs', i)});
    let change${i} = ${changes(`weight${i}`, `slope${i}`, terms('queryAlong', i), factorOf(kind, `score${i}`))};`,
    )}
    ${lanes.write('weight', `mine + ${weights}u`)}
    ${lanes.write('change', `mine + ${side + weights}u`)}
    ${store('1u - buffer')}
    workgroupBarrier();
    ${accumulate('out', 'tiles', 'at + ownRight', shape, 'ownWeights')}
    if (tile + 2u < tiles1) { // the tile after the next arrives while the next is multiplied
      ${loadNext}
    }
    t0 += ${cols}u;
    if (t0 >= lastQuery) { t0 = start; head = min(head + 1u, lastHead); }
  }
  workgroupBarrier();
  ${writeSums(
    'out',
    shape,
    `if (firstRow + r < u.sourceLength) {
        let to = (source + firstRow + r) * V + share * ${own / 4}u + col;
        if (side == 0u) {
          dValue[to] = largest[0] * sum;
        } else {
          dKey[to] = largest[0] * ${Math.LN2} * sum;
        }
      }`,
  )}`,
  };
});

import type * as tf from '@tensorflow/tfjs';
import {HALVES} from '../device/halves.ts';
import {runShader} from '../device/runShader.ts';
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
  regionOf,
  scoresOf,
  tileOf,
  writeSums,
} from '../products/matrixTiles.ts';
import {type AttentionCall, attentionShader, endOfQueries, kindOf, uniformsOf} from './attentionShader.ts';
import {changes, factorOf, type GradOperands, PACKED, partsOf} from './gradOperands.ts';
import {lanesOf} from './matrixAttention.ts';

/**
 * How subgroups share keys: a team of them has `16 · blocks`. Half of the team multiplies keys by queries and weights by
 * slopes, the other half values by slopes and changes of scores by queries, each an equal share of a head. So a matrix from a
 * tile serves `blocks` products. Tiles of `cols` queries and slopes are in `steps` buffers: with two, the next tiles are
 * stored while lanes have the scores, and workgroups wait twice a tile; with one, twice more.
 */
interface Teams extends Layout {
  /** Number of subgroups in a team. */
  members: number;
}

// Half a workgroup's memory for each of two on an H200, whose subgroups do not wait for each other.
const NARROW: Teams = {subgroups: 4, members: 2, blocks: 4, cols: 16, steps: 1};
/** For heads of more than 64 numbers. */
const WIDE: Teams = {subgroups: 8, members: 4, blocks: 4, cols: 16, steps: 2};
/** For those that two subgroups cannot share, and for devices with little workgroup memory. */
const WIDE_PAIRS: Teams = {subgroups: 8, members: 2, blocks: 2, cols: 16, steps: 2};

/**
 * Returns the gradients of key and value, `[B, K, S, D]`, by subgroup matrices; see `matrixAttentionGrad`. Each workgroup
 * adds up over the queries of all heads that share its keys.
 */
export function gradKeyValue(
  backend: WebGPUBackend,
  call: AttentionCall,
  operands: GradOperands,
): tf.TensorInfo[] {
  const {key, segments} = call.inputs;
  const [batch, groups, sourceLength, dim] = key.shape;
  const teams = teamsFor(backend, dim);
  const dKey = backend.makeTensorInfo(key.shape, 'float32');
  const dValue = backend.makeTensorInfo(key.shape, 'float32');
  runShader(backend, {
    shader: backwardKeyValue(kindOf(call), teams),
    buffers: {dKey, dValue, segments, ...operands},
    uniforms: uniformsOf(call),
    workgroups: [batch * groups, Math.ceil(sourceLength / keysOf(teams))],
  });
  return [dKey, dValue];
}

function teamsFor(backend: WebGPUBackend, dim: number): Teams {
  const memoryOf = (tried: Teams) => {
    const {tile, region} = placesOf(tried, dim);
    return 16 * (2 * tried.steps * tile + tried.subgroups * region) + 8 * tried.steps * tried.cols;
  };
  if (dim <= 64) return fitted(backend, NARROW, memoryOf);
  const wide = fitted(backend, WIDE, memoryOf);
  const isShared = dim % 32 === 0 && wide.subgroups >= wide.members;
  return isShared ? wide : fitted(backend, WIDE_PAIRS, memoryOf);
}

/** Returns the number of keys of a workgroup. */
const keysOf = ({subgroups, members, blocks}: Teams): number => (16 * blocks * subgroups) / members;

/**
 * Returns vectors of workgroup memory. A row of a team has the parts of its key's scores, those of its slopes, then the
 * weights and the changes, and an odd number of vectors, which keeps rows off the same banks.
 */
function placesOf(teams: Teams, dim: number) {
  const {members, blocks, cols} = teams;
  const part = cols / 8;
  const slopes = partsOf(dim) * part;
  const weights = 2 * slopes;
  const stride = weights + 2 * part + 1;
  const region = Math.max((16 * blocks * stride) / members, regionOf(teams)); // a subgroup's share of its team's rows
  return {part, slopes, weights, stride, region, tile: cols * halfStride(dim)};
}

const backwardKeyValue = attentionShader((kind, teams: Teams) => {
  const {dim, causal, hasSegments, hasWindow} = kind;
  const {subgroups, members, blocks, cols, steps: buffers} = teams;
  const {part, slopes, weights, stride, region, tile} = placesOf(teams, dim);
  const shares = members / 2;
  const own = dim / shares; // numbers of a head that a subgroup multiplies
  const ownParts = partsOf(dim) / shares;
  const shape = {blocks, cols, dim: own, rowSize: dim, stride};
  const threads = 32 * subgroups;
  const lanes = lanesOf(cols / 2, part);
  const queryTile = tileOf('tileQ', 'query', {rows: cols, dim, threads, array: 'tiles'});
  const slopeTile = tileOf('tileG', 'slopes', {rows: cols, dim, threads, array: 'tiles'});
  const isPastDiagonal = causal ? ' || s0 + 15u > t0 + u.past' : '';
  const isPartial =
    hasSegments || hasWindow
      ? 'true'
      : `t0 + ${cols}u > u.length || s0 + 16u > u.sourceLength${isPastDiagonal}`;
  // Loads what comes next: the tile of queries of head `nextHead` from `nextT` on.
  const loadNext = `
      ${queryTile.load('nextT', 'nextHead * u.length', 'u.length')}
      ${slopeTile.load('nextT', 'nextHead * u.length', 'u.length')}
      if (local < ${cols}u) { nextTerms = rowTerms[nextHead * u.length + min(nextT + local, u.length - 1u)]; }
      nextT += ${cols}u;
      if (nextT >= lastQuery) { nextT = start; nextHead = min(nextHead + 1u, lastHead); }`;
  const store = (buffer: string) => `
      ${queryTile.store(`${buffer} * ${2 * tile}u`)}
      ${slopeTile.store(`${buffer} * ${2 * tile}u + ${tile}u`)}
      if (local < ${cols}u) {
        let term = ${buffer} * ${cols}u + local;
        queryLogs[term / 4u][term % 4u] = nextTerms.x + unit; // weights are at most 1
        queryAlong[term / 4u][term % 4u] = nextTerms.y;
      }`;
  // As lanes, each subgroup has an equal share of its team's keys, sixteen at a time; a lane has half of a key's row.
  const lanesOfKeys = (i: number) => `{
      let s0 = firstOwn + ${16 * i}u;
      let s = s0 + lane % 16u;
      let mine = ownRow + ${16 * i * stride}u;
      ${lanes.read('score', partsOf(dim))}
      ${lanes.read('slope', partsOf(dim), `mine + ${slopes}u`)}
      ${lanes.bound(kind)}
      if (${isPartial}) {
        let t = t0 + firstCol;
        ${lanes.hide(
          (column) =>
            `(t + ${column} >= u.length) | (s >= u.sourceLength) | !isVisible(head, t + ${column}, s, segmentOf(head, t + ${column} + u.past))`,
        )}
      }
      ${times(
        lanes.vectors,
        (j) => `
      let weight${j} = exp2(score${j} - log${j});
      let change${j} = ${changes(`weight${j}`, `slope${j}`, `along${j}`, factorOf(kind, `score${j}`))};`,
      )}
      ${lanes.write('weight', `mine + ${weights}u`)}
      ${lanes.write('change', `mine + ${weights + part}u`)}
    }`;
  return {
    name: 'MatrixAttentionGradKeyValue',
    outputs: {dKey: 'vec4f', dValue: 'vec4f'},
    inputs: {...PACKED, rowTerms: 'vec2f', largest: 'f32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `${HALVES}
${HALF_SUM}
var<workgroup> tiles: array<vec4u, ${2 * buffers * tile}>;
var<workgroup> scores: array<vec4u, ${subgroups * region}>;
var<workgroup> queryLogs: array<vec4f, ${(buffers * cols) / 4}>;
var<workgroup> queryAlong: array<vec4f, ${(buffers * cols) / 4}>;
fn keyOrValue(isValue: bool, i: u32) -> vec4u {
  if (isValue) { return value[i]; }
  return key[i];
}`,
    body: `
  let source = group.x * u.sourceLength;
  let first = group.y * ${keysOf(teams)}u; // the longest of all heads first
  let sharing = u.heads / u.groups;
  let team = subgroup / ${members}u;
  let member = subgroup % ${members}u;
  let side = member / ${shares}u; // 0: scores, and the gradient of values; 1: slopes, and that of keys
  let share = member % ${shares}u;
  let firstRow = first + team * ${16 * blocks}u;
  let firstOwn = firstRow + member * ${(16 * blocks) / members}u;
  let firstCol = lane / 16u * ${cols / 2}u; // the lane's
  let teamRows = team * ${members * region}u;
  let ownRow = teamRows + (member * ${(16 * blocks) / members}u + lane % 16u) * ${stride}u + firstCol / 8u;
  let ownScores = teamRows + side * ${slopes}u + share * ${ownParts * part}u;
  let ownWeights = teamRows + ${weights}u + side * ${part}u;
  let ownLeft = side * ${tile}u + share * ${own / 8}u;
  let ownRight = (1u - side) * ${tile}u + share * ${own / 8}u;
  let region = subgroup * ${region}u; // before and after the loop
  let unit = select(0.0, log2(largest[0]), largest[0] > 0.0);
  ${loadLeft(
    'left',
    (i) => `keyOrValue(side == 1u, ${i} + share * ${own / 8}u)`,
    {base: 'source', first: 'firstRow', limit: 'u.sourceLength'},
    shape,
  )}
  ${declareSums('out', blocks, own)}
  ${queryTile.registers}
  ${slopeTile.registers}
  var nextTerms: vec2f;
  let start = ${causal ? 'first - min(first, u.past)' : '0u'};
  let lastHead = group.x * sharing + sharing - 1u;
  var nextHead = group.x * sharing;
  var nextT = start;
  var head = nextHead;
  var t0 = start;
  let lastQuery = ${endOfQueries(kind, 'first', keysOf(teams))};
  let tileCount = sharing * ((lastQuery - start + ${cols - 1}u) / ${cols}u);
  ${loadNext}
  ${store('0u')}
  ${loadNext}
  workgroupBarrier();
  for (var tile = 0u; tile < tileCount; tile++) {
    let buffer = tile % ${buffers}u;
    let at = buffer * ${2 * tile}u;
    ${times(ownParts, (p) => scoresOf('left', 'tiles', 'at + ownLeft', `ownScores + ${p * part}u`, shape, {part: p, parts: ownParts}))}
    workgroupBarrier();
    ${times(
      lanes.vectors,
      (j) => `
    let log${j} = queryLogs[buffer * ${cols / 4}u + firstCol / 4u + ${j}u];
    let along${j} = queryAlong[buffer * ${cols / 4}u + firstCol / 4u + ${j}u];`,
    )}
    ${times(blocks / members, lanesOfKeys)}
    ${buffers === 2 ? store('(1u - buffer)') : ''}
    workgroupBarrier();
    ${accumulate('out', 'tiles', 'at + ownRight', shape, 'ownWeights')}
    ${buffers === 2 ? '' : `workgroupBarrier();\n${store('0u')}\nworkgroupBarrier();`}
    if (tile + 2u < tileCount) { // the tile after the next arrives while the next is multiplied
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

import {HALVES} from '../device/halves.ts';
import {refuseOctets} from '../device/octets.ts';
import {shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {rowClass, runTuned} from '../device/tuning.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import type {WeightFormat} from '../weights/weightFormat.ts';
import type {PackedRows} from './packRows.ts';
import {type Product, type Result, resultType, sidesOf, storeResult} from './product.ts';

/** Rows of each thread, and how much of k is in workgroup memory at the same time, at most 32. */
export interface ThreadTiling {
  height: number;
  depth: number;
}

/** A workgroup has 16 × 16 threads. */
const SIDE = 16;
/** Columns of the tile: four for each thread. */
const COLS = 64;

/** A tiling that fits every device, and those that may be faster. */
export const THREAD_TILINGS: readonly ThreadTiling[] = [
  {height: 4, depth: 16},
  {height: 8, depth: 16},
  {height: 2, depth: 16},
  {height: 4, depth: 32},
];

/**
 * The product in tiles of 64 columns by 16 × 16 threads with `height` × 4 elements each; sums in float32. Operands are
 * float32, or float16 if `packed` is given. Works on every device.
 */
function tiledProduct(
  product: Product,
  {y, kind}: Result,
  packed: PackedRows | undefined,
  tiling: ThreadTiling,
) {
  const {x, weight, transposeWeight} = product;
  const {m, n, k} = sidesOf(product);
  const scales = kind === 'halves' ? undefined : packed?.scales; // those of the result are the operand's
  const storage = {kind, isPacked: packed !== undefined, hasScales: scales !== undefined};
  return {
    shader: tiles(storage, transposeWeight, tiling, weight),
    buffers: {y, x: packed?.halves ?? x, scales, ...weight.tensors},
    uniforms: {m, n, k, ...weight.values},
    workgroups: [Math.ceil(n / COLS), Math.ceil(m / (SIDE * tiling.height))] as [number, number],
  };
}

/** How the rows of operand and result are stored. */
interface Storage {
  kind: Result['kind'];
  isPacked: boolean;
  hasScales: boolean;
}

const tiles = shader(
  (storage: Storage, transposeWeight: boolean, {height, depth}: ThreadTiling, weight: WeightFormat) => {
    const {kind, isPacked, hasScales} = storage;
    const tile = SIDE * height; // rows
    const octets = depth / 8; // of a row of W along k
    const element = isPacked ? 'f16' : 'f32';
    // Eight elements of a row of W: along k if it is transposed, otherwise along n.
    // Unrolled, because a vector indexed by a loop variable compiles slowly and to slow code.
    const eight = (body: (i: number, value: string) => string) =>
      Array.from({length: 8}, (_, i) => body(i, `${element}(values[${i >> 2}][${i & 3}])`)).join('\n');
    const loadWeight = transposeWeight
      ? `let n = col0 + local / ${octets}u;
      let k = k0 + (local % ${octets}u) * 8u;
      let at = (local % ${octets}u) * 8u;
      var values: mat2x4f;
      if (n < u.n && k < u.k) { values = weightOctet(n, k); }
      ${eight((i, value) => `b[at + ${i}u][local / ${octets}u] = select(0, ${value}, k + ${i}u < u.k);`)}`
      : `let n = col0 + (local % 8u) * 8u;
      let k = k0 + local / 8u;
      let at = (local % 8u) * 8u;
      var values: mat2x4f;
      if (n < u.n && k < u.k) { values = weightOctet(k, n); }
      ${eight((i, value) => `b[local / 8u][at + ${i}u] = select(0, ${value}, n + ${i}u < u.n);`)}`;
    const readX = isPacked
      ? `let half = (row0 + r) * u.k + k0 + c; // K is even
        let pair = bitcast<vec2<f16>>(x[half / 2u]);
        a[c][r] = select(pair.x, pair.y, half % 2u == 1u);`
      : 'a[c][r] = x[(row0 + r) * u.k + k0 + c];';
    return {
      name: isPacked ? 'TiledProduct16' : 'TiledProduct32',
      outputs: {y: kind === 'float32' ? 'f32' : resultType(kind)},
      inputs: {x: isPacked ? 'u32' : 'f32', scales: hasScales ? 'f32' : undefined, ...weight.buffers},
      uniforms: {m: 'u32', n: 'u32', k: 'u32', ...weight.uniforms},
      workgroup: SIDE * SIDE,
      header: isPacked ? 'enable f16;' : '',
      globals: `
${weight.octet()}
${kind === 'halves' ? HALVES : ''}
var<workgroup> a: array<array<${element}, ${tile}>, ${depth}>;
var<workgroup> b: array<array<${element}, ${COLS}>, ${depth}>;`,
      body: `
  ${weight.prepare}
  let row0 = group.y * ${tile}u;
  let col0 = group.x * ${COLS}u;
  let top = (local / 16u) * ${height}u;
  let left = (local % 16u) * 4u;
  ${times(height, (i) => `var sum${i} = vec4f(0.0);`)}
  for (var k0 = 0u; k0 < u.k; k0 += ${depth}u) {
    for (var i = local; i < ${tile * depth}u; i += 256u) {
      let r = i / ${depth}u;
      let c = i % ${depth}u;
      if (row0 + r < u.m && k0 + c < u.k) {
        ${readX}
      } else {
        a[c][r] = 0;
      }
    }
    if (local < ${8 * depth}u) {
      ${loadWeight}
    }
    workgroupBarrier();
    for (var c = 0u; c < min(${depth}u, u.k - k0); c++) {
      let weights = vec4f(f32(b[c][left]), f32(b[c][left + 1u]), f32(b[c][left + 2u]), f32(b[c][left + 3u]));
      ${times(height, (i) => `sum${i} += f32(a[c][top + ${i}u]) * weights;`)}
    }
    workgroupBarrier();
  }
  ${times(
    height,
    (i) => `
  if (row0 + top + ${i}u < u.m) {
    let row = row0 + top + ${i}u;
    let sum = sum${i}${hasScales ? ' * scales[row]' : ''};
    ${
      kind === 'float32'
        ? times(
            4,
            (j) => `if (col0 + left + ${j}u < u.n) { y[row * u.n + col0 + left + ${j}u] = sum[${j}]; }`,
          )
        : `if (col0 + left < u.n) { ${storeResult(kind, '(row * u.n + col0 + left) / 4u', 'sum')} }`
    }
  }`,
  )}`,
    };
  },
);

/** Runs {@link tiledProduct} in the fastest tiles known for its shape. */
export function runTiledProduct(
  backend: WebGPUBackend,
  product: Product,
  result: Result,
  packed?: PackedRows,
): void {
  const {x, weight, rows, cols, transposeWeight} = product;
  refuseOctets('TiledProduct', x, result.y);
  const shape = [rowClass(x.shape[0]), rows, cols, `${transposeWeight}`, weight.key, result.kind];
  runTuned(backend, packed ? 'TiledProduct16' : 'TiledProduct32', shape, THREAD_TILINGS, (tiling) =>
    tiledProduct(product, result, packed, tiling),
  );
}

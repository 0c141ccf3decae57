import type * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import {PROJECTIONS, type PreparedStack, type StackAttributes} from '../../../ops/stackBlock.ts';
import type {StoredTensors} from '../../../ops/storedMatrix.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {ROWS_STEP, type RowsView, rowsView} from '../device/rowsView.ts';
import {isDryRun} from '../device/runShader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {ownTensor} from '../elementwise/elementwise.ts';
import {type PackedRows, type PackedTensors, packRows, type Rows} from '../products/packRows.ts';
import {type AttentionSettings, attendRows, attendRowsGrad, type Heads, headsOf} from './attendRows.ts';
import {gateRows, gateRowsGrad} from './gateRows.ts';
import {HostedInputs, hostedIn} from './hostedInputs.ts';
import {laterGradients} from './laterGradients.ts';
import {addNormalizationGrad, normalizeRows} from './normalizeRows.ts';
import {
  type AdapterGradients,
  LowRankPaths,
  type Projection,
  runAdapterGrad,
  runInputGrad,
  runProjection,
} from './projection.ts';
import {unpackRows} from './unpackRows.ts';

/** Feed-forward takes a chunk of rows at a time, a multiple of the step, whose gates take at most this many bytes. */
const CHUNK_STEP = 16 * ROWS_STEP;
const CHUNK_BYTES = 136 * 2 ** 20;

/** Gradients are packed so that the largest of a row is between 1 and 2: far from both ends of float16. */
const TOP_OF_GRADIENTS = 0;

type Name = (typeof PROJECTIONS)[number];
const QUERY_KEY_VALUE = ['q_proj', 'k_proj', 'v_proj'] as const;
const GATE_UP = ['gate_proj', 'up_proj'] as const;
/** The layers that read the same rows. */
const SHARING: readonly (readonly Name[])[] = [QUERY_KEY_VALUE, ['o_proj'], GATE_UP, ['down_proj']];

interface Block extends Record<Name, Projection> {
  inputNorm: tf.TensorInfo;
  postNorm: tf.TensorInfo;
}

/** A block whose low-rank paths are ready: those of the layers that share rows and, in backward, of each slope. */
interface ReadyBlock extends Block {
  paths: LowRankPaths;
  slopePaths?: LowRankPaths;
}

/**
 * What a block keeps for backward: its input, the results of attention if they are small, and, without checkpointing,
 * everything else that is not cheap to make.
 */
interface Kept {
  x: PackedTensors;
  attended?: Attended;
  rest?: KeptAttention & {h: PackedTensors} & Gates;
}

/** The results of attention. */
interface Attended {
  attended: tf.TensorInfo;
  logSums: tf.TensorInfo;
}

/** What backward of attention reads. */
interface KeptAttention extends Heads, Attended {}

type Gates = Record<'gate' | 'up', tf.TensorInfo>;
type GateViews = Record<'gate' | 'up', RowsView>;

/** The narrow sides of low-rank paths; a layer without one is absent. */
type Lows = Partial<Record<Name, tf.TensorInfo>>;

type Sums = Partial<Record<Name, AdapterGradients>>;

/** A pass over all blocks of a stack, forward or backward. */
export class StackPass {
  private readonly attributes: StackAttributes;
  private readonly blocks: Block[];
  private readonly attention: AttentionSettings;
  /** Number of positions, B·T. */
  private readonly rows: number;
  private readonly size: number;

  /**
   * @param shape `[B, T, C]`
   */
  constructor(
    private readonly backend: WebGPUBackend,
    private readonly stack: PreparedStack,
    [batch, length, size]: number[],
    private readonly tables: {cos: tf.TensorInfo; sin: tf.TensorInfo; segments?: tf.TensorInfo},
  ) {
    const {heads, keyValueHeads, headDim} = stack.attributes;
    const {cos, sin, segments} = tables;
    this.attributes = stack.attributes;
    this.blocks = blocksOf(stack);
    this.attention = {batch, length, heads, keyValueHeads, headDim, tables: {cos, sin}, segments};
    this.rows = batch * length;
    this.size = size;
  }

  /** Returns the value and, if `isRecorded`, what the blocks keep, or a tensor that stands for it in host memory. */
  forward(x: tf.TensorInfo, isRecorded: boolean): tf.TensorInfo[] {
    const value = ownTensor(this.backend, x, false);
    const hidden = {...value, shape: [this.rows, this.size]};
    const {checkpointing} = this.attributes;
    const isAllKept = isRecorded && !checkpointing;
    const isOffloaded = isRecorded && checkpointing === 'offload';
    const hosted = isOffloaded ? new HostedInputs(this.backend) : undefined;
    const kept = this.blocks.map((plain, i): Kept | undefined => {
      const isAttendedKept = isRecorded && i < this.keepingAttention;
      const block = this.ready(plain, false);
      const x = isRecorded ? this.packed() : undefined;
      const {normed, lows, ...attention} = this.attend(block, hidden, x);
      this.free(normed, ...Object.values(lows));
      this.addProjection(block, 'o_proj', attention.attended, hidden);
      const {attended, logSums, ...heads} = attention;
      if (!isAllKept) this.free(...Object.values(heads));
      if (!isAllKept && !isAttendedKept) this.free(attended, logSums);
      const h = isAllKept ? packRows(this.backend, hidden) : undefined;
      const gates = isAllKept ? this.gates(this.rows) : undefined;
      this.forEachChunk((begin, count) =>
        this.feedForward(block, rowsView(hidden, begin, count), gates, begin),
      );
      block.paths.dispose();
      const own = x && {
        x,
        ...(isAttendedKept && {attended: {attended, logSums}}),
        ...(h && gates && {rest: {...attention, h, ...gates}}),
      };
      if (own) hosted?.add(tensorsOf(own));
      return own;
    });
    if (hosted) return [value, hosted.tensor];
    return [value, ...kept.flatMap((each) => (each ? tensorsOf(each) : []))];
  }

  /**
   * Returns the gradients of the input, if wanted, and of each A and B. If the blocks' inputs are in host memory, they
   * are computed later: {@link laterGradients}.
   *
   * @param saved what forward returned after the value
   * @throws TfjsLoraError `UNSUPPORTED` if the inputs are in host memory and the gradient of the first one is wanted
   */
  backward(
    dy: tf.TensorInfo,
    saved: tf.TensorInfo[],
    {isInputTrained: isInputWanted, isSpent}: {isInputTrained: boolean; isSpent: boolean},
  ): tf.TensorInfo[] {
    const hosted = hostedIn(this.backend, saved);
    if (hosted && isInputWanted) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        "gradientCheckpointing on webgpu: expected true or false where embeddings train, got 'offload', whose gradients " +
          'are computed after backward has returned. Set it to true.',
      );
    }
    const dx = ownTensor(this.backend, dy, isSpent);
    const d = {...dx, shape: [this.rows, this.size]};
    if (hosted && !isDryRun(this.backend.device)) return this.laterBackward(d, hosted.use());
    const gradients: tf.TensorInfo[][] = [];
    let end = saved.length;
    for (let i = this.blocks.length - 1; i >= 0; i--) {
      const begin = end - this.countKept(i, saved);
      const kept = hosted?.tensorsOf(i) ?? saved.slice(begin, end);
      end = begin;
      gradients.unshift(this.adapterGrads(i, keptFrom(kept), d, i > 0 || isInputWanted));
      if (hosted) this.free(...kept);
    }
    if (!isInputWanted) this.free(dx);
    return [...(isInputWanted ? [dx] : []), ...gradients.flat()];
  }

  /** Number of blocks that keep the results of attention, the first ones, where blocks do not keep everything. */
  private get keepingAttention(): number {
    const {attention, attributes, blocks} = this;
    return attributes.checkpointing ? blocksKeepingAttention(blocks.length, attention) : 0;
  }

  /** Returns how many tensors a block kept. */
  private countKept(i: number, saved: tf.TensorInfo[]): number {
    if (!this.attributes.checkpointing) return saved.length / this.blocks.length;
    return i < this.keepingAttention ? 4 : 2;
  }

  /** {@link backward} with the inputs of blocks in host memory: the next one comes while a block is computed. */
  private laterBackward(d: tf.TensorInfo, hosted: HostedInputs): tf.TensorInfo[] {
    const {backend, blocks} = this;
    const {cos, sin, segments} = this.tables;
    const used = [cos, sin, ...(segments ? [segments] : []), ...Object.values(this.stack.tensors)];
    for (const {dataId} of used) backend.incRef(dataId);
    const shapes = blocks.flatMap((block) =>
      PROJECTIONS.flatMap((name) => {
        const {a, b} = block[name].tensors;
        return a ? [a.shape, b.shape] : [];
      }),
    );
    return laterGradients(backend, shapes, async () => {
      const gradients: tf.TensorInfo[][] = [];
      let next: Promise<tf.TensorInfo[]> | undefined = hosted.restored(blocks.length - 1);
      try {
        for (let i = blocks.length - 1; i >= 0; i--) {
          const kept = (await next) as tf.TensorInfo[];
          next = i > 0 ? hosted.restored(i - 1) : undefined;
          gradients.unshift(this.adapterGrads(i, keptFrom(kept), d, i > 0));
          this.free(...kept);
        }
      } finally {
        hosted.free();
        this.free(d, ...used);
      }
      return gradients.flat();
    });
  }

  /** Returns the gradients of a block's A and B, and turns `d` into that of its input, if wanted. */
  private adapterGrads(i: number, kept: Kept, d: RowsView, isInputWanted: boolean): tf.TensorInfo[] {
    const block = this.ready(this.blocks[i], true);
    const sums = this.blockGrad(block, kept, d, isInputWanted);
    for (const paths of [block.paths, block.slopePaths]) paths?.dispose();
    return PROJECTIONS.flatMap((name) => sums[name] ?? []).flatMap(({a, b}) => [a, b]);
  }

  /** x → normed → queries, keys and values → attended, unless that is known. `kept` gets x, packed. */
  private attend(
    block: ReadyBlock,
    x: Rows,
    kept?: PackedTensors,
    known?: Attended,
  ): KeptAttention & {normed: tf.TensorInfo; lows: Lows} {
    const {backend, attention} = this;
    const normed = this.halves(this.rows, this.size);
    normalizeRows(backend, x, this.norm(block.inputNorm), normed, kept);
    const lows = this.lows(block, QUERY_KEY_VALUE, normed);
    const [query, key, value] = QUERY_KEY_VALUE.map((name) =>
      this.projected(block[name], normed, lows[name]),
    );
    const heads = headsOf(backend, attention, {query, key, value});
    this.free(query, key, value);
    return {normed, lows, ...heads, ...(known ?? attendRows(backend, attention, heads))};
  }

  /** Runs a projection of `x` into new float32 rows, which are rounded once they are rotated. */
  private projected(projection: Projection, x: RowsView, low: tf.TensorInfo | undefined): tf.TensorInfo {
    const y = makeScratch(this.backend, [x.shape[0], projection.attributes.rows]);
    runProjection(this.backend, {halves: x}, low, projection, {y, kind: 'float32'});
    return y;
  }

  private addProjection(block: ReadyBlock, name: Name, x: RowsView, sum: RowsView): void {
    const low = this.lows(block, [name], x)[name];
    runProjection(this.backend, {halves: x}, low, block[name], {y: sum, kind: 'added'});
    this.free(low);
  }

  private ready(block: Block, isBackward: boolean): ReadyBlock {
    const {backend} = this;
    const shared = SHARING.map((names) => names.map((name) => block[name]));
    const alone = PROJECTIONS.map((name) => [block[name]]);
    return {
      ...block,
      paths: new LowRankPaths(backend, shared, true),
      slopePaths: isBackward ? new LowRankPaths(backend, alone, false) : undefined,
    };
  }

  /** Computes the narrow sides of the low-rank paths of layers that share `x`. */
  private lows(block: ReadyBlock, names: readonly Name[], x: RowsView): Lows {
    const lows = block.paths.lows(
      {halves: x},
      names.map((name) => block[name]),
    );
    return Object.fromEntries(names.map((name, i) => [name, lows[i]]));
  }

  /** Adds the feed-forward part to some rows of the hidden states. Keeps the gates in `kept`, from row `begin` on. */
  private feedForward(block: ReadyBlock, hidden: RowsView, kept: Gates | undefined, begin: number): void {
    const [count] = hidden.shape;
    const own = kept ? undefined : this.gates(count);
    const gates = own ?? viewsOf(kept as Gates, begin, count);
    const {normed, product, lows} = this.gate(block, hidden, gates, false);
    this.addProjection(block, 'down_proj', product, hidden);
    this.free(normed, product, own?.gate, own?.up, ...Object.values(lows));
  }

  /** h → normed → gates → product. @param areKnown whether the gates are computed already */
  private gate(
    block: ReadyBlock,
    h: Rows,
    gates: GateViews,
    areKnown: boolean,
  ): {normed: tf.TensorInfo; product: tf.TensorInfo; lows: Lows} {
    const {backend} = this;
    const [count] = gates.gate.shape;
    const normed = this.halves(count, this.size);
    normalizeRows(backend, h, this.norm(block.postNorm), normed);
    const lows = this.lows(block, GATE_UP, normed);
    if (!areKnown) {
      const x = {halves: normed};
      runProjection(backend, x, lows.gate_proj, block.gate_proj, {y: gates.gate, kind: 'halves'});
      runProjection(backend, x, lows.up_proj, block.up_proj, {y: gates.up, kind: 'halves'});
    }
    const product = this.halves(count, this.attributes.intermediateSize);
    gateRows(backend, gates, product);
    return {normed, product, lows};
  }

  /** Turns `d`, the gradient of a block's output, into that of its input, if wanted; returns those of the adapters. */
  private blockGrad(block: ReadyBlock, {x, attended, rest}: Kept, d: RowsView, isInputWanted: boolean): Sums {
    const {backend} = this;
    const sums: Sums = {};
    const lows: Lows = {};
    const attention = rest ?? this.attendAgain(block, x, lows, attended);
    const h = rest?.h ?? unpackRows(backend, x);
    Object.assign(lows, this.lows(block, ['o_proj'], attention.attended));
    if (!('halves' in h)) {
      const attended = {halves: attention.attended};
      runProjection(backend, attended, lows.o_proj, block.o_proj, {y: h, kind: 'added'});
    }
    this.forEachChunk((begin, count) => {
      const gates = rest && viewsOf(rest, begin, count);
      this.feedForwardGrad(block, viewOf(h, begin, count), gates, rowsView(d, begin, count), sums);
    });
    if (!('halves' in h)) this.free(h);
    if (rest || attended)
      for (const {dataId} of [attention.attended, attention.logSums]) backend.incRef(dataId);
    this.attendGrad(block, {x, lows, attention, isKept: rest !== undefined}, d, isInputWanted, sums);
    return sums;
  }

  /** Computes attention again, all but the norm, which is faster to compute once more than to keep. */
  private attendAgain(block: ReadyBlock, x: PackedTensors, lows: Lows, known?: Attended): KeptAttention {
    const {normed, lows: own, ...attention} = this.attend(block, x, undefined, known);
    this.free(normed);
    Object.assign(lows, own);
    return attention;
  }

  /** Turns some rows of `d` into the gradient of h. */
  private feedForwardGrad(
    block: ReadyBlock,
    h: Rows,
    kept: GateViews | undefined,
    d: RowsView,
    sums: Sums,
  ): void {
    const {backend} = this;
    const [count] = d.shape;
    const gates = kept ?? this.gates(count);
    const {normed, product, lows} = this.gate(block, h, gates, kept !== undefined);
    const slope = packRows(backend, d, TOP_OF_GRADIENTS);
    const {down_proj: low} = this.lows(block, ['down_proj'], product);
    const ofDown = {x: {halves: product}, dy: slope, low};
    const lowSlope = this.adapterGrad(block, 'down_proj', ofDown, sums);
    this.free(product); // its buffer is the gradient's
    const dProduct = this.halves(count, this.attributes.intermediateSize);
    runInputGrad(backend, slope, lowSlope, block.down_proj, {y: dProduct, kind: 'halves'});
    const gradients = kept ? this.gates(count) : (gates as Gates);
    gateRowsGrad(backend, gates, dProduct, kept && gradients);
    this.free(dProduct);
    const dNormed = this.floats(count);
    for (const [i, name] of GATE_UP.entries()) {
      const halves = [gradients.gate, gradients.up][i];
      const dy = {halves, scales: slope.scales};
      const low = this.adapterGrad(block, name, {x: {halves: normed}, dy, low: lows[name]}, sums);
      runInputGrad(backend, dy, low, block[name], {y: dNormed, kind: i === 0 ? 'float32' : 'added'});
    }
    this.free(normed, slope.halves, slope.scales, gradients.gate, gradients.up);
    addNormalizationGrad(backend, h, this.norm(block.postNorm), dNormed, d);
    this.free(dNormed);
  }

  /** Turns `d`, the gradient of h, into that of the block's input, if wanted. Frees all but what is kept. */
  private attendGrad(
    block: ReadyBlock,
    given: {
      x: PackedTensors;
      lows: Lows;
      attention: KeptAttention;
      isKept: boolean;
    },
    d: RowsView,
    isInputWanted: boolean,
    sums: Sums,
  ): void {
    const {backend} = this;
    const {x, lows} = given;
    const {attended, logSums, query, key, value} = given.attention;
    const slope = packRows(backend, d, TOP_OF_GRADIENTS);
    const dAttended = this.halves(this.rows, block.o_proj.attributes.cols);
    const ofO = {x: {halves: attended}, dy: slope, low: lows.o_proj};
    const lowSlope = this.adapterGrad(block, 'o_proj', ofO, sums);
    runInputGrad(backend, slope, lowSlope, block.o_proj, {y: dAttended, kind: 'halves'});
    this.free(slope.halves);
    const dy = {halves: dAttended, scales: slope.scales};
    const gradients = attendRowsGrad(backend, this.attention, {query, key, value}, {attended, logSums, dy});
    this.free(dAttended, slope.scales);
    this.free(attended, logSums);
    if (!given.isKept) this.free(query, key, value);
    const normed = this.halves(this.rows, this.size);
    normalizeRows(backend, x, this.norm(block.inputNorm), normed);
    if (given.isKept) Object.assign(lows, this.lows(block, QUERY_KEY_VALUE, normed));
    const dNormed = isInputWanted ? this.floats(this.rows) : undefined;
    for (const [i, name] of QUERY_KEY_VALUE.entries()) {
      const dy = [gradients.query, gradients.key, gradients.value][i];
      const low = this.adapterGrad(block, name, {x: {halves: normed}, dy, low: lows[name]}, sums);
      const result = dNormed && ({y: dNormed, kind: i === 0 ? 'float32' : 'added'} as const);
      runInputGrad(backend, dy, low, block[name], result);
      this.free(dy.halves, dy.scales);
    }
    this.free(normed);
    if (!dNormed) return;
    addNormalizationGrad(backend, x, this.norm(block.inputNorm), dNormed, d);
    this.free(dNormed);
  }

  /** Adds the gradients of a layer's low-rank path to `sums`; returns the narrow side of its input's gradient. */
  private adapterGrad(
    block: ReadyBlock,
    name: Name,
    {x, dy, low}: {x: PackedRows; dy: PackedRows; low: tf.TensorInfo | undefined},
    sums: Sums,
  ): tf.TensorInfo | undefined {
    const lowSlope = block.slopePaths?.lows(dy, [block[name]])[0];
    if (low && lowSlope) sums[name] = runAdapterGrad(this.backend, {x, dy, low, lowSlope}, sums[name]);
    return lowSlope;
  }

  private forEachChunk(body: (begin: number, count: number) => void): void {
    const step = chunkRows(this.attributes.intermediateSize);
    for (let begin = 0; begin < this.rows; begin += step) body(begin, Math.min(step, this.rows - begin));
  }

  private norm(weight: tf.TensorInfo) {
    return {weight, epsilon: this.attributes.epsilon};
  }

  /** Makes float16 rows. */
  private halves(rows: number, cols: number): tf.TensorInfo {
    return makeScratch(this.backend, [rows, cols / 2], 'int32');
  }

  private gates(rows: number): Gates {
    const {intermediateSize} = this.attributes;
    return {gate: this.halves(rows, intermediateSize), up: this.halves(rows, intermediateSize)};
  }

  private packed(): PackedTensors {
    const scales = this.backend.makeTensorInfo([this.rows], 'float32');
    return {halves: this.backend.makeTensorInfo([this.rows, this.size / 2], 'int32'), scales};
  }

  private floats(rows: number): tf.TensorInfo {
    return makeScratch(this.backend, [rows, this.size]);
  }

  private free(...tensors: (RowsView | undefined)[]): void {
    for (const tensor of tensors) if (tensor) this.backend.disposeData(tensor.dataId);
  }
}

/** Returns how many rows feed-forward takes at a time. */
export function chunkRows(intermediateSize: number): number {
  const fitting = CHUNK_BYTES / (4 * intermediateSize);
  return Math.max(CHUNK_STEP, Math.floor(fitting / CHUNK_STEP) * CHUNK_STEP);
}

/**
 * The most bytes that the results of attention may take to be kept with checkpointing: those of all blocks, or, from
 * `longLength` positions on, where computing them again takes long, of as many blocks as fit `longBytes`.
 */
export const KEPT_ATTENTION = {bytes: 544 * 2 ** 20, longLength: 8192, longBytes: 680 * 2 ** 20};

/** Returns how many blocks with checkpointing keep the results of attention, instead of computing them again. */
export function blocksKeepingAttention(
  blocks: number,
  {batch, length, heads, headDim}: Pick<AttentionSettings, 'batch' | 'length' | 'heads' | 'headDim'>,
): number {
  const {bytes, longLength, longBytes} = KEPT_ATTENTION;
  const ofBlock = batch * length * heads * (2 * headDim + 4);
  if (blocks * ofBlock <= bytes) return blocks;
  return length < longLength ? 0 : Math.min(blocks, Math.floor(longBytes / ofBlock));
}

/** Names of what a block keeps besides its input, in the order of the outputs. */
const REST = ['query', 'key', 'value', 'attended', 'logSums', 'gate', 'up'] as const;

function tensorsOf({x, attended, rest}: Kept): tf.TensorInfo[] {
  const ofAttention = attended ? [attended.attended, attended.logSums] : [];
  const ofRest = rest ? [...REST.map((name) => rest[name]), rest.h.halves, rest.h.scales] : [];
  return [x.halves, x.scales, ...ofAttention, ...ofRest];
}

function keptFrom([halves, scales, ...rest]: tf.TensorInfo[]): Kept {
  if (rest.length === 0) return {x: {halves, scales}};
  if (rest.length === 2) return {x: {halves, scales}, attended: {attended: rest[0], logSums: rest[1]}};
  const named = Object.fromEntries(REST.map((name, i) => [name, rest[i]])) as Record<
    (typeof REST)[number],
    tf.TensorInfo
  >;
  const [hHalves, hScales] = rest.slice(REST.length);
  return {x: {halves, scales}, rest: {...named, h: {halves: hHalves, scales: hScales}}};
}

const viewsOf = ({gate, up}: Gates, begin: number, count: number): GateViews => ({
  gate: rowsView(gate, begin, count),
  up: rowsView(up, begin, count),
});

const viewOf = (rows: PackedTensors | tf.TensorInfo, begin: number, count: number): Rows =>
  'halves' in rows
    ? {halves: rowsView(rows.halves, begin, count), scales: rowsView(rows.scales, begin, count)}
    : rowsView(rows, begin, count);

/** Returns the blocks with their tensors. */
function blocksOf({attributes, tensors}: PreparedStack): Block[] {
  const byLayer = new Map<string, StoredTensors>();
  for (const [name, tensor] of Object.entries(tensors)) {
    const end = name.lastIndexOf('.');
    const layer = name.slice(0, end);
    if (!byLayer.has(layer)) byLayer.set(layer, {});
    (byLayer.get(layer) as StoredTensors)[name.slice(end + 1)] = tensor;
  }
  return attributes.blocks.map((projections, i) => {
    const own = PROJECTIONS.map((name, j) => [
      name,
      {attributes: projections[j], tensors: byLayer.get(`${i}.${name}`) ?? {}},
    ]);
    return {
      ...(Object.fromEntries(own) as Record<Name, Projection>),
      inputNorm: tensors[`${i}.input_layernorm`],
      postNorm: tensors[`${i}.post_attention_layernorm`],
    };
  });
}

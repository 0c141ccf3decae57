import type * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import {PROJECTIONS, type PreparedStack, type StackAttributes} from '../../../ops/stackBlock.ts';
import type {StoredTensors} from '../../../ops/storedMatrix.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {moveBuffer} from '../device/moveBuffer.ts';
import {makeHalves, usesOctets} from '../device/octets.ts';
import {type RowsView, rowsView} from '../device/rowsView.ts';
import {isDryRun} from '../device/runShader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {ownTensor} from '../elementwise/elementwise.ts';
import {type PackedRows, type PackedTensors, packRows, type Rows} from '../products/packRows.ts';
import {SharedWeights} from '../weights/sharedWeights.ts';
import {
  type AttentionSettings,
  addSlopes,
  attendRows,
  attendRowsGrad,
  type Heads,
  makeAllHeads,
  makeAllSlopes,
  splitInto,
} from './attendRows.ts';
import {gateRows, gateRowsGrad} from './gateRows.ts';
import {HostedInputs, hostedIn} from './hostedInputs.ts';
import {type Attended, type Gates, type Kept, keptFrom, tensorsOf} from './keptTensors.ts';
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
import {blocksKeepingAttention, chunkRows, type Part, partRows, SHARED_WEIGHTS, split} from './stackSizes.ts';
import {unpackRows} from './unpackRows.ts';

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
  /** Weights that are written once for several parts of the rows. Default: each is written for each part. */
  weights?: SharedWeights;
}

/** Heads, and the narrow sides of the layers that made them, of each part of the rows that are known. */
interface MadeHeads {
  heads: Heads;
  lows: Lows[];
}

/** Rows of gates. */
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
  private readonly parts: Part[];
  /** Parts of the rows that feed-forward takes at a time. */
  private readonly chunks: Part[];
  /** Whether all rows that products read are in octets, for faster products. */
  private readonly inOctets: boolean;

  /**
   * @param shape `[B, T, C]`
   */
  constructor(
    private readonly backend: WebGPUBackend,
    private readonly stack: PreparedStack,
    [batch, length, size]: number[],
    private readonly tables: {cos: tf.TensorInfo; sin: tf.TensorInfo; segments?: tf.TensorInfo},
  ) {
    const {heads, keyValueHeads, headDim, intermediateSize, checkpointing} = stack.attributes;
    const {cos, sin, segments} = tables;
    this.attributes = stack.attributes;
    this.blocks = blocksOf(stack);
    this.rows = batch * length;
    this.size = size;
    const all = {begin: 0, count: this.rows};
    const chunk = chunkRows(size, intermediateSize, checkpointing !== false);
    const part = partRows(size, chunk);
    this.parts = split(all, part);
    this.chunks = split(all, Math.min(chunk, part));
    const widths = [size, intermediateSize, heads * headDim, keyValueHeads * headDim];
    const inOctets = usesOctets(backend, this.rows, widths);
    this.attention = {batch, length, heads, keyValueHeads, headDim, tables: {cos, sin}, segments, inOctets};
    this.inOctets = inOctets;
  }

  /** Returns the value and, if `isRecorded`, what the blocks keep, or a tensor that stands for it in host memory. */
  forward(
    x: tf.TensorInfo,
    {isRecorded, isInputSpent}: {isRecorded: boolean; isInputSpent: boolean},
  ): tf.TensorInfo[] {
    const {backend} = this;
    const value = ownTensor(backend, x, isInputSpent);
    const hidden = {...value, shape: [this.rows, this.size]};
    const {checkpointing} = this.attributes;
    const isAllKept = isRecorded && !checkpointing;
    const isOffloaded = isRecorded && checkpointing === 'offload';
    const hosted = isOffloaded ? new HostedInputs(backend) : undefined;
    const kept = this.blocks.map((plain, i): Kept | undefined => {
      const isAttendedKept = isRecorded && !isAllKept && this.keepsAttention(i);
      const block = this.ready(plain, false);
      const x = isRecorded ? this.packed() : undefined;
      const {heads, lows} = this.makeHeads(block, hidden, isAllKept, x);
      this.free(...lows.flatMap((each) => Object.values(each)));
      const {attended, logSums} = attendRows(backend, this.attention, heads, isAllKept || isAttendedKept);
      if (!isAllKept) this.free(...Object.values(heads));
      this.addProjection(block, 'o_proj', attended, hidden);
      if (!isAllKept && !isAttendedKept) this.free(attended, logSums);
      const rest = isAllKept ? {h: this.packed(), ...this.gates(this.rows, true)} : undefined;
      this.sharingWeights(block, this.chunks, (sharing) => {
        for (const {begin, count} of this.chunks)
          this.feedForward(sharing, rowsView(hidden, begin, count), rest, begin);
      });
      block.paths.dispose();
      const own = x && {
        x,
        ...(isAttendedKept && {attended: {attended, logSums}}),
        ...(rest && {rest: {...heads, attended, logSums, ...rest}}),
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
      const kept = hosted?.tensorsOf(i) ?? saved.slice(begin, end).map((each) => this.owned(each, isSpent));
      end = begin;
      gradients.unshift(this.adapterGrads(i, keptFrom(kept), d, i > 0 || isInputWanted));
    }
    if (!isInputWanted) this.free(dx);
    return [...(isInputWanted ? [dx] : []), ...gradients.flat()];
  }

  /** Whether a block with checkpointing keeps the results of attention: the last one does, and the first ones. */
  private keepsAttention(i: number): boolean {
    const {attention, blocks, size} = this;
    return i < blocksKeepingAttention(blocks.length, size, attention) - 1 || i === blocks.length - 1;
  }

  /** Returns how many tensors a block kept. */
  private countKept(i: number, saved: tf.TensorInfo[]): number {
    if (!this.attributes.checkpointing) return saved.length / this.blocks.length;
    return this.keepsAttention(i) ? 4 : 2;
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
      let kept: tf.TensorInfo[] = [];
      try {
        for (let i = blocks.length - 1; i >= 0; i--) {
          kept = (await next) as tf.TensorInfo[];
          next = i > 0 ? hosted.restored(i - 1) : undefined;
          gradients.unshift(this.adapterGrads(i, keptFrom(kept), d, i > 0));
          kept = [];
        }
      } catch (error) {
        const restored = await next?.catch(() => []); // may still be on its way, or be what failed
        this.free(...kept, ...(restored ?? []), ...gradients.flat());
        throw error;
      } finally {
        hosted.free();
        this.free(d, ...used);
      }
      return gradients.flat();
    });
  }

  /** Returns a kept tensor to dispose: if nobody else reads it, one that has its buffer, which is then free earlier. */
  private owned(kept: tf.TensorInfo, isSpent: boolean): tf.TensorInfo {
    const {backend} = this;
    if (!isSpent || backend.refCount(kept.dataId) > 1) {
      backend.incRef(kept.dataId);
      return kept;
    }
    const own = backend.makeTensorInfo(kept.shape, kept.dtype);
    moveBuffer(backend, kept, own);
    return own;
  }

  /**
   * Returns the gradients of a block's A and B, and turns `d` into that of its input, if wanted. Disposes what the block
   * kept.
   */
  private adapterGrads(i: number, kept: Kept, d: RowsView, isInputWanted: boolean): tf.TensorInfo[] {
    const block = this.ready(this.blocks[i], true);
    const sums = this.blockGrad(block, kept, d, isInputWanted);
    for (const paths of [block.paths, block.slopePaths]) paths?.dispose();
    return PROJECTIONS.flatMap((name) => sums[name] ?? []).flatMap(({a, b}) => [a, b]);
  }

  /** x → normed → queries, keys and values, which are kept for backward or not. `kept` gets x, packed. */
  private makeHeads(block: ReadyBlock, x: Rows, areKept: boolean, kept?: PackedTensors): MadeHeads {
    const {backend, attention} = this;
    const heads = makeAllHeads(backend, attention, areKept);
    const makePart = (block: ReadyBlock, {begin, count}: Part) => {
      const normed = this.halves(count, this.size, this.inOctets);
      const packed = kept && packedView(kept, begin, count);
      normalizeRows(backend, viewOf(x, begin, count), this.norm(block.inputNorm), normed, packed);
      const lows = this.lows(block, QUERY_KEY_VALUE, normed);
      const [query, key, value] = QUERY_KEY_VALUE.map((name) =>
        this.projected(this.layer(block, name), normed, lows[name]),
      );
      this.free(normed);
      splitInto(backend, attention, heads, {query, key, value}, begin);
      this.free(query, key, value);
      return lows;
    };
    const lows = this.sharingWeights(block, this.parts, (sharing) =>
      this.parts.map((part) => makePart(sharing, part)),
    );
    return {heads, lows};
  }

  /** Runs a projection of `x` into new float32 rows, which are rounded once they are rotated. */
  private projected(projection: Projection, x: RowsView, low: tf.TensorInfo | undefined): tf.TensorInfo {
    const y = makeScratch(this.backend, [x.shape[0], projection.attributes.rows]);
    runProjection(this.backend, {halves: x}, low, projection, {y, kind: 'float32'});
    return y;
  }

  private addProjection(block: ReadyBlock, name: Name, x: RowsView, sum: RowsView): void {
    const low = this.lows(block, [name], x)[name];
    runProjection(this.backend, {halves: x}, low, this.layer(block, name), {y: sum, kind: 'added'});
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

  /** Calls `body` with a block whose weights are written once for all these parts of the rows, if there are `least`. */
  private sharingWeights<T>(
    block: ReadyBlock,
    parts: Part[],
    body: (sharing: ReadyBlock) => T,
    least = 2,
  ): T {
    if (parts.length < least) return body(block);
    const weights = new SharedWeights(this.backend);
    const result = body({...block, weights});
    weights.dispose();
    return result;
  }

  /** Returns a layer of the block, for its products. */
  private layer(block: ReadyBlock, name: Name): Projection {
    return {...block[name], weights: block.weights};
  }

  /** Computes the narrow sides of the low-rank paths of layers that share `x`. */
  private lows(block: ReadyBlock, names: readonly Name[], x: RowsView): Lows {
    const lows = block.paths.lows(
      {halves: x},
      names.map((name) => block[name]),
    );
    return Object.fromEntries(names.map((name, i) => [name, lows[i]]));
  }

  /** Adds the feed-forward part to some rows of the hidden states. Keeps them and the gates, from row `begin` on. */
  private feedForward(
    block: ReadyBlock,
    hidden: RowsView,
    kept: (Gates & {h: PackedTensors}) | undefined,
    begin: number,
  ): void {
    const [count] = hidden.shape;
    const own = kept ? undefined : this.gates(count);
    const gates = own ?? this.viewsOf(kept as Gates, begin, count);
    const h = kept && packedView(kept.h, begin, count);
    const {normed, product, lows} = this.gate(block, hidden, gates, false, h);
    this.addProjection(block, 'down_proj', product, hidden);
    this.free(normed, product, own?.gate, own?.up, ...Object.values(lows));
  }

  /**
   * h → normed → gates → product. `kept` gets h, packed.
   *
   * @param areKnown whether the gates are computed already
   */
  private gate(
    block: ReadyBlock,
    h: Rows,
    gates: GateViews,
    areKnown: boolean,
    kept?: PackedTensors,
  ): {normed: tf.TensorInfo; product: tf.TensorInfo; lows: Lows} {
    const {backend} = this;
    const [count] = gates.gate.shape;
    const normed = this.halves(count, this.size, this.inOctets);
    normalizeRows(backend, h, this.norm(block.postNorm), normed, kept);
    const lows = this.lows(block, GATE_UP, normed);
    if (!areKnown) {
      const x = {halves: normed};
      for (const [i, name] of GATE_UP.entries()) {
        const y = [gates.gate, gates.up][i];
        runProjection(backend, x, lows[name], this.layer(block, name), {y, kind: 'halves'});
      }
    }
    const product = this.halves(count, this.attributes.intermediateSize, this.inOctets);
    gateRows(backend, gates, product);
    return {normed, product, lows};
  }

  /**
   * Turns `d`, the gradient of a block's output, into that of its input, if wanted; returns those of the adapters.
   * Disposes what the block kept.
   */
  private blockGrad(block: ReadyBlock, kept: Kept, d: RowsView, isInputWanted: boolean): Sums {
    const {backend} = this;
    const {x, rest} = kept;
    const sums: Sums = {};
    const known = rest ?? kept.attended;
    let made = known ? undefined : this.makeHeads(block, x, false);
    const {attended: whole, logSums} =
      known ?? attendRows(backend, this.attention, (made as MadeHeads).heads, false);
    const attended = this.storedView(whole, 0, this.rows);
    const lows = this.sharingWeights(
      block,
      this.chunks,
      (sharing) => this.chunks.map((chunk) => this.hiddenGrad(sharing, chunk, {x, attended, rest}, d, sums)),
      SHARED_WEIGHTS.leastChunks,
    );
    if (rest) {
      const {query, key, value, gate, up, h} = rest;
      made = {heads: {query, key, value}, lows: []};
      this.free(gate, up, h.halves, h.scales);
    }
    made ??= this.makeHeads(block, x, false);
    const given = {x, made, attention: {attended, logSums}, lows};
    this.sharingWeights(block, this.chunks, (sharing) =>
      this.attendGrad(sharing, given, d, isInputWanted, sums),
    );
    this.free(x.halves, x.scales);
    return sums;
  }

  /** Turns a part of `d` into the gradient of h, which it computes from x unless it is known; returns o_proj's low. */
  private hiddenGrad(
    block: ReadyBlock,
    {begin, count}: Part,
    {x, attended, rest}: Pick<Kept, 'x' | 'rest'> & Pick<Attended, 'attended'>,
    d: RowsView,
    sums: Sums,
  ): tf.TensorInfo | undefined {
    const {backend} = this;
    const halves = rowsView(attended, begin, count);
    const {o_proj: low} = this.lows(block, ['o_proj'], halves);
    const h = rest ? packedView(rest.h, begin, count) : unpackRows(backend, packedView(x, begin, count));
    if (!('halves' in h))
      runProjection(backend, {halves}, low, this.layer(block, 'o_proj'), {y: h, kind: 'added'});
    const gates = rest && this.viewsOf(rest, begin, count);
    this.feedForwardGrad(block, h, gates, rowsView(d, begin, count), sums);
    if (!('halves' in h)) this.free(h);
    return low;
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
    const slope = this.slope(d);
    const {down_proj: low} = this.lows(block, ['down_proj'], product);
    const ofDown = {x: {halves: product}, dy: slope, low};
    const lowSlope = this.adapterGrad(block, 'down_proj', ofDown, sums);
    this.free(product); // its buffer is the gradient's
    const dProduct = this.halves(count, this.attributes.intermediateSize, this.inOctets);
    runInputGrad(backend, slope, lowSlope, this.layer(block, 'down_proj'), {y: dProduct, kind: 'halves'});
    const gradients = kept ? this.gates(count) : (gates as Gates);
    gateRowsGrad(backend, gates, dProduct, kept && gradients);
    this.free(dProduct);
    const dNormed = this.floats(count);
    for (const [i, name] of GATE_UP.entries()) {
      const halves = [gradients.gate, gradients.up][i];
      const dy = {halves, scales: slope.scales};
      const low = this.adapterGrad(block, name, {x: {halves: normed}, dy, low: lows[name]}, sums);
      const result = {y: dNormed, kind: i === 0 ? 'float32' : 'added'} as const;
      runInputGrad(backend, dy, low, this.layer(block, name), result);
    }
    this.free(normed, slope.halves, slope.scales, gradients.gate, gradients.up);
    addNormalizationGrad(backend, h, this.norm(block.postNorm), dNormed, d);
    this.free(dNormed);
  }

  /** Turns `d`, the gradient of h, into that of the block's input, if wanted. Disposes what it is given, except x. */
  private attendGrad(
    block: ReadyBlock,
    given: {x: PackedTensors; made: MadeHeads; attention: Attended; lows: (tf.TensorInfo | undefined)[]},
    d: RowsView,
    isInputWanted: boolean,
    sums: Sums,
  ): void {
    const {backend} = this;
    const {x, made, attention, lows} = given;
    const {attended: whole, logSums} = attention;
    const slopes = makeAllSlopes(backend, this.attention);
    for (const [i, {begin, count}] of this.chunks.entries()) {
      const slope = this.slope(rowsView(d, begin, count));
      const attended = rowsView(whole, begin, count);
      const x = {halves: attended};
      const lowSlope = this.adapterGrad(block, 'o_proj', {x, dy: slope, low: lows[i]}, sums);
      const halves = this.halves(count, block.o_proj.attributes.cols, this.inOctets);
      runInputGrad(backend, slope, lowSlope, this.layer(block, 'o_proj'), {y: halves, kind: 'halves'});
      const dy = {halves, scales: slope.scales};
      addSlopes(backend, this.attention, slopes, {dy, attended, logSums}, begin);
      this.free(slope.halves, slope.scales, halves);
    }
    this.free(whole);
    const gradients = attendRowsGrad(backend, this.attention, made.heads, slopes, logSums);
    for (const [i, {begin, count}] of this.parts.entries()) {
      const normed = this.halves(count, this.size, this.inOctets);
      const input = packedView(x, begin, count);
      normalizeRows(backend, input, this.norm(block.inputNorm), normed);
      const lows = made.lows[i] ?? this.lows(block, QUERY_KEY_VALUE, normed);
      const dNormed = isInputWanted ? this.floats(count) : undefined;
      for (const [j, name] of QUERY_KEY_VALUE.entries()) {
        const whole = [gradients.query, gradients.key, gradients.value][j];
        const dy = packedView(whole, begin, count);
        const low = this.adapterGrad(block, name, {x: {halves: normed}, dy, low: lows[name]}, sums);
        const result = dNormed && ({y: dNormed, kind: j === 0 ? 'float32' : 'added'} as const);
        runInputGrad(backend, dy, low, this.layer(block, name), result);
      }
      this.free(normed);
      if (!dNormed) continue;
      addNormalizationGrad(backend, input, this.norm(block.inputNorm), dNormed, rowsView(d, begin, count));
      this.free(dNormed);
    }
    this.free(...Object.values(gradients).flatMap(({halves, scales}) => [halves, scales]));
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

  private norm(weight: tf.TensorInfo) {
    return {weight, epsilon: this.attributes.epsilon};
  }

  /** Packs a gradient for products. */
  private slope(d: RowsView, scales?: RowsView): PackedTensors {
    return packRows(this.backend, d, {top: TOP_OF_GRADIENTS, scales, inOctets: this.inOctets});
  }

  /** Makes float16 rows. */
  private halves(rows: number, cols: number, inOctets = false, isKept = false): tf.TensorInfo {
    return makeHalves(this.backend, rows, cols, {inOctets, isKept});
  }

  private gates(rows: number, areKept = false): Gates {
    const {intermediateSize} = this.attributes;
    const make = () => this.halves(rows, intermediateSize, this.inOctets, areKept);
    return {gate: make(), up: make()};
  }

  private viewsOf({gate, up}: Gates, begin: number, count: number): GateViews {
    return {gate: this.storedView(gate, begin, count), up: this.storedView(up, begin, count)};
  }

  /** Returns rows of a tensor that is in octets if the pass uses them, also if it comes from the engine as a plain one. */
  private storedView(x: tf.TensorInfo, begin: number, count: number): RowsView {
    return rowsView({...x, inOctets: this.inOctets}, begin, count);
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

/** Returns some of packed rows. */
const packedView = <R extends PackedRows>({halves, scales}: R, begin: number, count: number): R =>
  ({halves: rowsView(halves, begin, count), scales: scales && rowsView(scales, begin, count)}) as R;

const viewOf = (rows: Rows, begin: number, count: number): Rows =>
  'halves' in rows ? packedView(rows, begin, count) : rowsView(rows, begin, count);

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

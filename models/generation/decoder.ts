import * as tf from '@tensorflow/tfjs';
import type {KeyValueCache} from '../../layers/keyValueCache.ts';
import type {Replay} from '../../layers/ops/backendTraits.ts';
import type {TokenChain} from '../../layers/ops/chainStarter.ts';
import {greedyChoice} from '../../layers/ops/greedyChoice.ts';
import {canRecord, recordReplay} from '../../layers/ops/recordReplay.ts';
import {canChain} from '../../layers/ops/tokenChain.ts';
import type {RotaryEmbedding, RotaryTables} from '../../layers/rotaryEmbedding.ts';

/** The part of a model that a decoder needs. */
export interface DecodedModel {
  /**
   * Computes the hidden states `[B, T, hiddenSize]` of new positions.
   *
   * @param inputIds `[B, T]` int32
   * @param options.attentionMask `[B, past + T]` int32 over all positions so far, 1 for a real token; absent when
   *   all are real. With `rotary` it may be wider; columns after this position do not count
   * @param options.positionIds `[B][T]`
   * @param options.rotary rotary tables of the positions instead of `positionIds`, if the model has `rotary`
   * @param options.cache the `past` positions, to which the pass appends its own
   */
  forward(
    inputIds: tf.Tensor2D,
    options: {
      attentionMask?: tf.Tensor2D;
      positionIds?: number[][];
      rotary?: RotaryTables;
      cache?: KeyValueCache;
    },
  ): tf.Tensor3D;
  /** Computes logits, `[..., hiddenSize]` → `[..., vocabSize]` float32. */
  logitsOf(hidden: tf.Tensor): tf.Tensor;
  /** Makes the rotary tables. A decoder may record and replay the passes of a model that has it; see `Decoder`. */
  readonly rotary?: RotaryEmbedding;
  /**
   * Starts a chain of greedy passes, if the backend has one for the model. It needs `rotary`.
   *
   * @param tables rotary tables of all positions that may come, `[1, 1, positions, headDim / 2]`
   * @param mask `[B, capacity]` int32, 1 for a real token or one to come; absent when there is no padding
   */
  startChain?(cache: KeyValueCache, tables: RotaryTables, mask?: tf.Tensor2D): TokenChain | undefined;
}

/** The adapters of a batch's rows: runs the passes in which each row has its own. */
export interface DecodedAdapters {
  run<R>(pass: () => R): R;
}

/** A batch to choose next tokens for. */
export interface DecodedBatch {
  /** Prompt and generated tokens of each row, without padding. */
  ids: number[][];
  /** Number of padding columns before each row, so that all rows end in the same column. */
  paddings: number[];
  /** Number of columns that the cache lacks: first all of the prompt's, then one. */
  newPositions: number;
  /** Adapters of the rows. Default: the active adapters. */
  adapters?: DecodedAdapters;
}

export interface NextOptions {
  /** Whether to return the {@link greedyChoice}, `[B]`, instead of the logits, `[B, vocabSize]`. */
  isGreedy: boolean;
  /** Whether rows have room for another token after this one. */
  mayContinue: boolean;
}

/** A recorded pass for one new position, which the device can replay. */
interface RecordedPass {
  replay: Replay;
  isGreedy: boolean;
  inputIds: tf.Tensor2D;
  cos: tf.Tensor4D;
  sin: tf.Tensor4D;
  mask?: tf.Tensor2D;
  output: tf.Tensor;
}

/** A running chain, and the position at which its tables begin. */
interface RunningChain {
  chain: TokenChain;
  firstPosition: number;
}

/**
 * Runs a model over the columns of a batch that its cache lacks. If the backend can record a pass's commands, a new
 * position is one replay, or one step of a chain of whole passes if the backend has these, so a pass takes the host
 * hardly any time. If the device chooses the tokens itself, the next pass begins before the host has read them.
 *
 * The model must not change from one pass to the next.
 */
export class Decoder {
  private recorded?: RecordedPass;
  private chain?: RunningChain;
  /** Number of rows for which there is no chain. */
  private rowsWithoutChain?: number;
  /** Whether the next pass is already running. */
  private isAhead = false;

  constructor(
    private readonly model: DecodedModel,
    private readonly cache: KeyValueCache,
  ) {}

  /** Returns the logits or the choice after the batch's last column. */
  async next(given: DecodedBatch, options: NextOptions): Promise<tf.TypedArray> {
    const {recorded} = this;
    const batch = this.isTurned(given) ? this.fromStart(given) : given;
    if (options.isGreedy && batch.newPositions === 1 && this.hasRoom()) {
      this.chain ??= this.startChain(batch);
      if (this.chain) return this.chained(this.chain, batch, options);
    }
    if (recorded?.isGreedy === options.isGreedy && recorded.replay.isCurrent && this.hasRoom())
      return this.replayed(recorded, batch, options);
    this.forget();
    const {rotary} = this.model;
    if (rotary && batch.newPositions === 1 && this.hasRoom() && canRecord())
      return this.recording(rotary, batch, options);
    const output = tf.tidy(() => {
      const {ids, positions} = columnsOf(batch);
      return this.pass(tf.tensor2d(ids, undefined, 'int32'), batch, options, {
        attentionMask: maskOf(batch, batch.paddings[0] + batch.ids[0].length),
        positionIds: positions,
      });
    });
    return output.data().finally(() => output.dispose());
  }

  /** Whether the longest row becomes so long that the cached keys are useless. */
  private isTurned({ids, newPositions}: DecodedBatch): boolean {
    const length = Math.max(...ids.map((row) => row.length));
    return newPositions === 1 && this.model.rotary?.turnsAt(length) === true;
  }

  private fromStart(batch: DecodedBatch): DecodedBatch {
    this.forget();
    this.cache.clear();
    return {...batch, newPositions: batch.paddings[0] + batch.ids[0].length};
  }

  /** Drops what runs ahead or is recorded. Call it before anything else changes the batch or the cache. */
  forget(): void {
    this.chain?.chain.dispose();
    this.chain = undefined;
    this.isAhead = false;
    if (!this.recorded) return;
    const {replay, inputIds, cos, sin, mask, output} = this.recorded;
    replay.dispose();
    tf.dispose({inputIds, cos, sin, mask, output});
    this.recorded = undefined;
  }

  private pass(
    inputIds: tf.Tensor2D,
    {adapters}: DecodedBatch,
    {isGreedy}: NextOptions,
    options: Parameters<DecodedModel['forward']>[1],
  ): tf.Tensor {
    const [batch, newPositions] = inputIds.shape;
    const compute = () => {
      const hidden = this.model.forward(inputIds, {...options, cache: this.cache}); // [B, T, C]
      const last = newPositions === 1 ? hidden : tf.slice(hidden, [0, newPositions - 1, 0], [-1, 1, -1]);
      const logits = this.model.logitsOf(last).reshape([batch, -1]) as tf.Tensor2D; // [B, vocab]
      return isGreedy ? greedyChoice(logits) : logits;
    };
    return adapters ? adapters.run(compute) : compute();
  }

  /** Whether the cache has room. Without it, the cache makes new tensors, and a recorded pass cannot be replayed. */
  private hasRoom(): boolean {
    return this.cache.length < this.cache.capacity;
  }

  private async recording(rotary: RotaryEmbedding, batch: DecodedBatch, options: NextOptions) {
    const {ids, positions} = columnsOf(batch);
    const mask = maskOf(batch, this.cache.capacity);
    const inputs = {
      inputIds: tf.tensor2d(ids, undefined, 'int32'),
      ...rotary.tablesAt(positions),
      ...(mask && {mask}),
    };
    const {inputIds, cos, sin} = inputs;
    let output = undefined as tf.Tensor | undefined;
    const run = () => {
      output = tf.tidy(() =>
        this.pass(inputIds, batch, options, {attentionMask: inputs.mask, rotary: {cos, sin}}),
      );
    };
    let replay: Replay | undefined;
    try {
      replay = recordReplay(Object.values(inputs), run);
    } catch (error) {
      tf.dispose(inputs);
      throw error;
    }
    const made = {...inputs, output: output as tf.Tensor};
    if (replay) this.recorded = {replay, isGreedy: options.isGreedy, ...made};
    return made.output.data().finally(() => replay ?? tf.dispose(made));
  }

  private replayed(
    {replay, isGreedy, inputIds, cos, sin, output}: RecordedPass,
    batch: DecodedBatch,
    {mayContinue}: NextOptions,
  ): Promise<tf.TypedArray> {
    const {rotary} = this.model as {rotary: RotaryEmbedding};
    const {ids, positions} = columnsOf(batch);
    const tables = (offset: number): [tf.Tensor, tf.TypedArray][] => {
      const values = rotary.valuesAt(positions.map(([position]) => [position + offset]));
      return [
        [cos, values.cos],
        [sin, values.sin],
      ];
    };
    if (!this.isAhead) replay.run({writes: [[inputIds, Int32Array.from(ids.flat())], ...tables(0)]});
    this.cache.advance();
    const values = output.data(); // copied before the next pass writes over it
    this.isAhead = isGreedy && mayContinue && this.hasRoom();
    if (this.isAhead) replay.run({copies: [[output, inputIds]], writes: tables(1)});
    return values;
  }

  private startChain(batch: DecodedBatch): RunningChain | undefined {
    const {model, cache} = this;
    const rows = batch.ids.length;
    const {rotary} = model;
    if (!canChain() || !rotary || !model.startChain || rows === this.rowsWithoutChain) return undefined;
    if (rotary.dependsOnLength) return undefined; // the tables below are those of one length
    const firstPosition = cache.length - Math.max(...batch.paddings);
    const positions = Array.from({length: cache.capacity - firstPosition}, (_, i) => firstPosition + i);
    const given = {...rotary.tablesAt([positions]), mask: maskOf(batch, cache.capacity)};
    const start = () => model.startChain?.(cache, given, given.mask);
    const chain = batch.adapters ? batch.adapters.run(start) : start();
    for (const tensor of Object.values(given)) tensor?.dispose();
    if (!chain) this.rowsWithoutChain = rows;
    return chain && {chain, firstPosition};
  }

  private chained(
    {chain, firstPosition}: RunningChain,
    {ids, paddings}: DecodedBatch,
    {mayContinue}: NextOptions,
  ): tf.TypedArray {
    const {cache} = this;
    const run = (tokens?: number[]) => {
      const positions = paddings.map((padding) => cache.length - padding - firstPosition);
      chain.run(cache.length, positions, tokens);
    };
    if (!this.isAhead) run(ids.map((row) => row[row.length - 1]));
    cache.advance();
    this.isAhead = mayContinue && this.hasRoom();
    if (this.isAhead) run();
    return chain.read();
  }
}

/** Returns ids and positions of the columns that the cache lacks, row by row. */
function columnsOf({ids, paddings, newPositions}: DecodedBatch) {
  const total = paddings[0] + ids[0].length;
  const columns = Array.from({length: newPositions}, (_, t) => total - newPositions + t);
  return {
    // Padding may be any id, because it is masked out. Its position only has to be valid, as in transformers.
    ids: ids.map((row, b) => columns.map((column) => row[column - paddings[b]] ?? 0)),
    positions: paddings.map((padding) => columns.map((column) => Math.max(column - padding, 0))),
  };
}

/** Returns which of `width` columns are real, `[B, width]` int32, if there is padding. Columns to come are real. */
function maskOf({paddings}: DecodedBatch, width: number): tf.Tensor2D | undefined {
  if (!paddings.some((padding) => padding > 0)) return undefined;
  const rows = paddings.map((padding) =>
    Array.from({length: width}, (_, column) => Number(column >= padding)),
  );
  return tf.tensor2d(rows, undefined, 'int32');
}

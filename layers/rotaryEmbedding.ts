import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import type {OptionNames} from '../quant/knownOptions.ts';
import {LAYER_OPTIONS, type LayerArgs, ModuleLayer, onlyInput, onlyShape} from './moduleLayer.ts';
import {readAtOnce} from './ops/readAtOnce.ts';
import {rotaryEmbedding} from './ops/rotaryEmbedding.ts';
import {dependsOnLength, type RopeScaling, ropeFrequencies} from './ropeFrequencies.ts';

export interface RotaryEmbeddingArgs extends LayerArgs {
  /** Size of a head, even. */
  headDim: number;
  /** Base of the frequencies. Default 10000; Llama 3 uses 500000. */
  theta?: number;
  scaling?: RopeScaling;
}

/** Cosines and sines of the positions of one forward pass, each `[B or 1, 1, T, headDim/2]`. */
export interface RotaryTables {
  cos: tf.Tensor4D;
  sin: tf.Tensor4D;
}

interface RotaryValues {
  cos: Float32Array;
  sin: Float32Array;
}

/** Rotates each head by its position. Input and output `[B, H, T, headDim]`. No weights. */
export class RotaryEmbedding extends ModuleLayer {
  static className = 'RotaryEmbedding';
  static readonly optionNames = {
    ...LAYER_OPTIONS,
    headDim: true,
    theta: true,
    scaling: true,
  } satisfies OptionNames<RotaryEmbeddingArgs>;
  readonly headDim: number;
  readonly theta: number;
  readonly scaling?: RopeScaling;
  /** Radians per position, `[headDim/2]`; those of a short sequence if they depend on its length. */
  readonly inverseFrequencies: Float32Array;
  /**
   * The latest values of {@link tables}: batches of one length often follow each other, and the values take as long as
   * a small batch.
   */
  private latest?: RotaryValues & {key: string};

  constructor(args: RotaryEmbeddingArgs) {
    super(args);
    this.headDim = args.headDim;
    if (!(Number.isInteger(this.headDim) && this.headDim > 0 && this.headDim % 2 === 0)) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `${this.name} headDim: expected an even number, got ${this.headDim}`,
      );
    }
    this.theta = args.theta ?? 10000;
    this.scaling = args.scaling ?? undefined;
    for (const key of this.scaling?.type === 'longrope' ? (['shortFactor', 'longFactor'] as const) : []) {
      const {length} = (this.scaling as RopeScaling & {type: 'longrope'})[key];
      if (length === this.headDim / 2) continue;
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `${this.name} scaling ${key}: expected ${this.headDim / 2} numbers, one per frequency, got ${length}`,
      );
    }
    this.inverseFrequencies = ropeFrequencies(this.headDim, this.theta, this.scaling);
  }

  /** Whether the angle of a position depends on the length of the sequence, which ends at the last position of a pass. */
  get dependsOnLength(): boolean {
    return dependsOnLength(this.scaling);
  }

  /**
   * Whether a sequence that grows to `length` has other angles than before at all its positions, so that keys of earlier
   * passes are useless.
   */
  turnsAt(length: number): boolean {
    return this.scaling?.type === 'longrope' && length === this.scaling.originalMaxPositionEmbeddings + 1;
  }

  /** Returns tables for positions `offset … offset + length − 1`, the same for every row of a batch. */
  tables(length: number, offset = 0): RotaryTables {
    const key = `${length} ${offset}`;
    if (this.latest?.key !== key) {
      this.latest = {key, ...this.valuesAt([Array.from({length}, (_, i) => offset + i)])};
    }
    return this.tensorsOf(this.latest, 1, length);
  }

  /**
   * Returns tables for the given positions, `[B, T]`. They are made on the host, because a card's own cosine may be off
   * by 2⁻¹¹.
   *
   * @throws TfjsLoraError `UNSUPPORTED` for a tensor on a backend that reads only asynchronously, such as webgpu
   */
  tablesAt(positionIds: ArrayLike<number>[] | tf.Tensor2D): RotaryTables {
    const positions = readAtOnce<ArrayLike<number>>(`${this.name} positionIds`, positionIds, 'Pass rows.');
    return this.tensorsOf(this.valuesAt(positions), positions.length, positions[0].length);
  }

  private tensorsOf({cos, sin}: RotaryValues, batch: number, length: number): RotaryTables {
    const shape: [number, number, number, number] = [batch, 1, length, this.headDim / 2];
    return {cos: tf.tensor4d(cos, shape), sin: tf.tensor4d(sin, shape)};
  }

  /** Returns the values of {@link tablesAt}'s tensors, row by row. */
  valuesAt(positions: ArrayLike<number>[]): RotaryValues {
    const half = this.headDim / 2;
    const [batch, length] = [positions.length, positions[0].length];
    const frequencies = this.dependsOnLength ? this.frequenciesFor(positions) : this.inverseFrequencies;
    const factor = (this.scaling && 'attentionFactor' in this.scaling && this.scaling.attentionFactor) || 1;
    const cos = new Float32Array(batch * length * half);
    const sin = new Float32Array(batch * length * half);
    let at = 0;
    for (const row of positions) {
      for (let t = 0; t < length; t++) {
        for (let i = 0; i < half; i++, at++) {
          const angle = Math.fround(row[t] * frequencies[i]);
          cos[at] = Math.cos(angle) * factor;
          sin[at] = Math.sin(angle) * factor;
        }
      }
    }
    return {cos, sin};
  }

  private frequenciesFor(positions: ArrayLike<number>[]): Float32Array {
    let last = 0;
    for (const row of positions) for (let t = 0; t < row.length; t++) last = Math.max(last, row[t]);
    return ropeFrequencies(this.headDim, this.theta, this.scaling, last + 1);
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return onlyShape(inputShape);
  }

  override call(inputs: tf.Tensor | tf.Tensor[], kwargs: Partial<RotaryTables> = {}): tf.Tensor {
    return tf.tidy(() => {
      const x = onlyInput<tf.Tensor4D>(inputs);
      const {cos, sin} = kwargs.cos && kwargs.sin ? (kwargs as RotaryTables) : this.tables(x.shape[2]);
      return rotaryEmbedding(x, cos, sin);
    });
  }

  override getConfig(): tf.serialization.ConfigDict {
    const scaling = (this.scaling ?? null) as tf.serialization.ConfigDict | null;
    return {...super.getConfig(), headDim: this.headDim, theta: this.theta, scaling};
  }
}
tf.serialization.registerClass(RotaryEmbedding);

import * as tf from '@tensorflow/tfjs';
import {assertKnownOptions} from '../quant/knownOptions.ts';
import {Adapter, DEFAULT_ADAPTER} from './adapter.ts';
import {
  assertLoRAArgs,
  LORA_FIELDS,
  type LoRAAdapterArgs,
  type LoRAFields,
  type LoRAInit,
  type LoRASettings,
  loraSettings,
} from './loraFields.ts';
import {Parameter} from './parameter.ts';

/** The matrices A and B of an adapter that creates its own. */
export interface LoRAMatrices {
  /** `[rank, inputDim]` float32. */
  loraA: Parameter;
  /** `[units, rank]` float32. */
  loraB: Parameter;
}

/**
 * A low-rank update of one linear layer: `scaling · B · A`, and DoRA's magnitudes.
 *
 * A subclass may freeze some of its weights, have other settings ({@link fields}), train other weights
 * ({@link parameters}) and compute A and B from them ({@link factors}). A layer uses it as its `adapterClass`.
 */
export class LoRAAdapter extends Adapter {
  /** The table of this class's settings, by which they are read, written, checked and saved. */
  static readonly fields: LoRAFields = LORA_FIELDS;
  /** `peft_type` in `adapter_config.json`; an adapter that PEFT's LoRA cannot read has its own. */
  static readonly peftType: string = 'LORA';
  /** They are replaced together with the weights; see `hotswapAdapter`. */
  settings: Readonly<LoRASettings>;
  /** `[rank, inputDim]` float32. */
  readonly loraA: Parameter;
  /** `[units, rank]` float32; zeros at first. */
  readonly loraB: Parameter;
  /** DoRA's magnitudes, `[units]` float32. */
  readonly magnitude?: Parameter;
  /** The bias of B, `[units]` float32; zeros at first. */
  readonly bias?: Parameter;

  /**
   * @param where the layer's name, for weights and messages
   * @param shape `[units, inputDim]` of the layer's weight
   * @param rowNorms `‖W‖` per output row, for DoRA's first magnitudes `[units]`
   * @param matrices returns A and B. Default: new ones, drawn as the settings say
   */
  constructor(
    name: string,
    where: string,
    [units, inputDim]: [number, number],
    args: LoRAAdapterArgs,
    rowNorms: () => tf.Tensor,
    matrices?: () => LoRAMatrices,
  ) {
    super(name);
    const {fields} = new.target;
    assertKnownOptions(`adapter "${name}" of ${where}`, args, fields);
    assertLoRAArgs(args, where, [units, inputDim], fields);
    this.settings = loraSettings(args, fields);
    const {rank, init, freezeB, useDoRA, loraBias} = this.settings;
    const suffix = name === DEFAULT_ADAPTER ? '' : `.${name}`;
    const drawn = (): LoRAMatrices => ({
      loraA: new Parameter({
        name: `${where}.lora_A${suffix}`,
        shape: [rank, inputDim],
        initialize: () => drawA(init, rank, inputDim, args.seed),
      }),
      loraB: new Parameter({
        name: `${where}.lora_B${suffix}`,
        shape: [units, rank],
        trainable: !freezeB,
        initialize: () => tf.zeros([units, rank]),
      }),
    });
    ({loraA: this.loraA, loraB: this.loraB} = (matrices ?? drawn)());
    if (loraBias) {
      this.bias = new Parameter({
        name: `${where}.lora_B${suffix}.bias`,
        shape: [units],
        initialize: () => tf.zeros([units]),
      });
    }
    if (!useDoRA) return;
    this.magnitude = new Parameter({
      name: `${where}.lora_magnitude_vector${suffix}`,
      shape: [units],
      initialize: rowNorms,
    });
  }

  /** Factor on `B · A`, which includes {@link weight}. */
  get scaling(): number {
    return this.weight * this.ownScaling;
  }

  /** Factor on `B · A` that follows from the settings, regardless of the {@link weight}. */
  get ownScaling(): number {
    const {alpha, rank, useRsLoRA} = this.settings;
    return alpha / (useRsLoRA ? Math.sqrt(rank) : rank);
  }

  /** Whether A and B are all that its update is made of, apart from a magnitude and a bias. */
  get isPlain(): boolean {
    return this.factors === LoRAAdapter.prototype.factors;
  }

  /** Pads A and B with zeros to a larger rank, which changes nothing in what they compute. */
  padTo(rank: number): void {
    const {settings} = this;
    const missing = rank - settings.rank;
    this.loraA.pad(0, missing);
    this.loraB.pad(1, missing);
    this.settings = {...settings, ...settingsOfRank(rank, settings)};
  }

  /** Returns the matrices of the update, A `[rank, inputDim]` and B `[units, rank]`, differentiable in its weights. */
  factors(): {a: tf.Tensor2D; b: tf.Tensor2D} {
    const [a, b] = [this.loraA.read(), this.loraB.read()] as tf.Tensor[] as tf.Tensor2D[];
    return {a, b};
  }

  /** Returns `y + scaling · bias` for an output `y` `[N, units]`, or `y` itself if there is no bias. */
  withBias(y: tf.Tensor2D): tf.Tensor2D {
    return this.bias ? tf.add(y, tf.mul(this.bias.read(), this.scaling)) : y;
  }

  override get parameters(): Map<string, Parameter> {
    const named: [string, Parameter][] = [
      ['lora_A.weight', this.loraA],
      ['lora_B.weight', this.loraB],
    ];
    if (this.bias) named.push(['lora_B.bias', this.bias]);
    if (this.magnitude) named.push(['lora_magnitude_vector', this.magnitude]);
    return new Map(named);
  }
}

/** Returns rank and alpha of matrices that are padded with zeros to a rank, for the scaling that their settings say. */
export function settingsOfRank(
  padded: number,
  {alpha, rank, useRsLoRA}: LoRASettings,
): Pick<LoRASettings, 'alpha' | 'rank'> {
  return {rank: padded, alpha: alpha * (useRsLoRA ? Math.sqrt(padded / rank) : padded / rank)};
}

function drawA(init: LoRAInit, rank: number, inputDim: number, seed?: number): tf.Tensor {
  if (init === 'gaussian') return tf.randomNormal([rank, inputDim], 0, 1 / rank, 'float32', seed);
  const bound = 1 / Math.sqrt(inputDim);
  return tf.randomUniform([rank, inputDim], -bound, bound, 'float32', seed);
}

/** The class {@link LoRAAdapter}, or a subclass. */
export interface LoRAAdapterClass<Fields extends LoRAFields = LoRAFields> {
  new (
    ...args: [
      name: string,
      where: string,
      shape: [units: number, inputDim: number],
      args: never,
      rowNorms: () => tf.Tensor,
    ]
  ): LoRAAdapter;
  readonly fields: Fields;
  readonly peftType: string;
}

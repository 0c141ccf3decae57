import * as tf from '@tensorflow/tfjs';
import type {StorageDtype} from '../quant/float16.ts';
import type {OptionNames} from '../quant/knownOptions.ts';
import {
  type Initializer,
  type SerializedInitializer,
  serializeInitializer,
  toInitializer,
} from './initializer.ts';
import {
  flatten,
  LAYER_OPTIONS,
  type LayerArgs,
  ModuleLayer,
  onlyInput,
  onlyShape,
  unflatten,
} from './moduleLayer.ts';
import {linear} from './ops/linear.ts';
import type {Parameter} from './parameter.ts';

export interface TransposedDenseArgs extends LayerArgs {
  /** Size of the output's last axis. */
  units: number;
  /** Whether to add a bias. Default true, as in Keras. */
  useBias?: boolean;
  /** Name of a Keras activation, applied last. Default none. */
  activation?: Activation;
  /** Storage type of the weight: float32, bfloat16 or float16. A 16-bit weight is frozen. Default `float32`. */
  storage?: StorageDtype;
  /** Initializer of the weight. Default `glorotUniform`. */
  weightInitializer?: Initializer | SerializedInitializer;
}

type Activation = Parameters<typeof tf.layers.activation>[0]['activation'];

/**
 * A linear layer, `activation(x · Wᵀ + b)`. It is like `tf.layers.dense`, but its weight is `[units, inputDim]`, as in
 * Hugging Face's model files, and may be stored in 16 bits.
 *
 * Input `[..., inputDim]` float32, output `[..., units]` float32.
 * Weights: `weight` `[units, inputDim]`, `bias` `[units]` zeros.
 */
export class TransposedDense extends ModuleLayer {
  static className = 'TransposedDense'; // plain 'Dense' is Keras's own, with a [inputDim, units] kernel
  static readonly optionNames = {
    ...LAYER_OPTIONS,
    units: true,
    useBias: true,
    activation: true,
    storage: true,
    weightInitializer: true,
  } satisfies OptionNames<TransposedDenseArgs>;
  readonly units: number;
  readonly useBias: boolean;
  readonly activation?: Activation;
  readonly storage: StorageDtype;
  readonly weightInitializer: Initializer;
  weight!: Parameter;
  bias?: Parameter;
  private isBiasAlone = false;

  constructor(args: TransposedDenseArgs) {
    super(args);
    this.supportsMasking = true; // as Keras's own
    this.units = args.units;
    this.useBias = args.useBias ?? true;
    this.activation = args.activation ?? undefined;
    this.storage = args.storage ?? 'float32';
    this.weightInitializer = toInitializer(args.weightInitializer ?? tf.initializers.glorotUniform({}));
  }

  override build(inputShape: tf.Shape | tf.Shape[]): void {
    const inputDim = onlyShape(inputShape).at(-1) as number;
    this.weight = this.buildWeight([this.units, inputDim]);
    if (this.useBias) {
      this.bias = this.addParameter('bias', [this.units], {
        initialize: () => tf.zeros([this.units]),
      });
    }
    this.built = true;
  }

  /** Declares the weight; a subclass may store it in another way. */
  protected buildWeight(shape: [units: number, inputDim: number]): Parameter {
    return this.addParameter('weight', shape, {
      storage: this.storage,
      initialize: () => this.weightInitializer.apply(shape, 'float32'),
    });
  }

  /** Whether the bias is all that trains while the layer is trainable. Default false. */
  get trainsBiasAlone(): boolean {
    return this.isBiasAlone;
  }

  set trainsBiasAlone(alone: boolean) {
    this.isBiasAlone = alone;
    this.holdParts();
  }

  protected override holdParts(): void {
    super.holdParts();
    if (this.isBiasAlone) this.weight.held = true;
  }

  get inputDim(): number {
    return this.weight.logicalShape[1];
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return [...onlyShape(inputShape).slice(0, -1), this.units];
  }

  override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
    return tf.tidy(() => {
      const x = onlyInput(inputs); // [..., inputDim]
      const y = this.project(flatten(x, this.inputDim)); // [N, units]
      return unflatten(activate(this.activation, y), x);
    });
  }

  /** Computes `x · Wᵀ + b` for `x` `[N, inputDim]`. A frozen weight takes no part in backward. */
  project(x: tf.Tensor2D): tf.Tensor2D {
    return this.withBias(this.multiply(x));
  }

  /** Returns `y + b` for a product `y` `[N, units]`, or `y` itself if there is no bias. */
  withBias(y: tf.Tensor2D): tf.Tensor2D {
    return this.bias ? tf.add(y, this.bias.read()) : y;
  }

  /**
   * Whether {@link project} is just the product with the frozen weight plus the bias; a subclass may compute it another
   * way.
   */
  get isPlainProduct(): boolean {
    const {project, multiply} = TransposedDense.prototype;
    return !this.weight.trainable && this.project === project && this.multiply === multiply;
  }

  /** Computes `x · Wᵀ` for `x` `[N, inputDim]`. */
  multiply(x: tf.Tensor2D): tf.Tensor2D {
    return this.weight.trainable
      ? tf.matMul(x, this.weight.read() as tf.Tensor as tf.Tensor2D, false, true)
      : linear(x, this.weight.matrix());
  }

  /** Returns the config of an unbuilt layer with the same settings. */
  override getConfig(): tf.serialization.ConfigDict {
    return {
      ...super.getConfig(),
      units: this.units,
      useBias: this.useBias,
      activation: this.activation ?? null,
      storage: this.storage,
      weightInitializer: serializeInitializer(this.weightInitializer),
    };
  }
}
tf.serialization.registerClass(TransposedDense);

/** Applies a Keras activation by name, or returns `y` itself if there is none. */
export function activate<T extends tf.Tensor>(activation: Activation | undefined, y: T): T {
  if (activation == null || activation === 'linear') return y;
  return tf.layers.activation({activation}).apply(y) as T;
}

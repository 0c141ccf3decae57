import * as tf from '@tensorflow/tfjs';
import type {StorageDtype} from '../quant/float16.ts';
import type {OptionNames} from '../quant/knownOptions.ts';
import {
  type Initializer,
  type SerializedInitializer,
  serializeInitializer,
  toInitializer,
} from './initializer.ts';
import type {LoRACallArgs, LoRADense} from './loraDense.ts';
import {
  flatten,
  LAYER_OPTIONS,
  type LayerArgs,
  ModuleLayer,
  onlyInput,
  onlyShape,
  unflatten,
} from './moduleLayer.ts';
import {backendTraits} from './ops/backendTraits.ts';
import {swiGLU} from './ops/swiGLU.ts';
import type {RowPart} from './rowsOfPositions.ts';
import {TransposedDense} from './transposedDense.ts';

export interface SwiGLUArgs extends LayerArgs {
  /** Size of the gate's output. */
  intermediateSize: number;
  /** Whether the projections have a bias. Default false. */
  useBias?: boolean;
  /** Storage type of the weights: float32, bfloat16 or float16. Default `float32`. */
  storage?: StorageDtype;
  weightInitializer?: Initializer | SerializedInitializer;
}

/**
 * Llama's feed-forward: `down_proj(silu(gate_proj(x)) · up_proj(x))`. Input and output `[..., C]`. Sub-layers are
 * named as in Hugging Face's files and may be replaced by any layer of the same shapes, such as {@link LoRADense}.
 */
export class SwiGLU extends ModuleLayer {
  static className = 'SwiGLU';
  static readonly optionNames = {
    ...LAYER_OPTIONS,
    intermediateSize: true,
    useBias: true,
    storage: true,
    weightInitializer: true,
  } satisfies OptionNames<SwiGLUArgs>;
  readonly intermediateSize: number;
  readonly useBias: boolean;
  readonly storage: StorageDtype;
  readonly weightInitializer: Initializer;
  gate_proj!: TransposedDense | LoRADense;
  up_proj!: TransposedDense | LoRADense;
  down_proj!: TransposedDense | LoRADense;

  constructor(args: SwiGLUArgs) {
    super(args);
    this.intermediateSize = args.intermediateSize;
    this.useBias = args.useBias ?? false;
    this.storage = args.storage ?? 'float32';
    this.weightInitializer = toInitializer(args.weightInitializer ?? tf.initializers.glorotUniform({}));
  }

  override build(inputShape: tf.Shape | tf.Shape[]): void {
    const size = onlyShape(inputShape).at(-1) as number;
    this.buildInputs(size);
    this.down_proj = this.project('down_proj', this.intermediateSize, size);
    this.built = true;
  }

  /** Makes the projections to the gate and to what it scales. A subclass may make others. */
  protected buildInputs(size: number): void {
    this.gate_proj = this.project('gate_proj', size, this.intermediateSize);
    this.up_proj = this.project('up_proj', size, this.intermediateSize);
  }

  /** Makes and builds one of the projections. */
  protected project(name: string, inputDim: number, units: number): TransposedDense {
    const {useBias, storage, weightInitializer} = this;
    const dense = new TransposedDense({
      name: `${this.name}.${name}`,
      units,
      useBias,
      storage,
      weightInitializer,
    });
    this.buildSublayer(dense, [null, inputDim]);
    return dense;
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return onlyShape(inputShape);
  }

  override call(inputs: tf.Tensor | tf.Tensor[], {isUnread, ...kwargs}: LoRACallArgs = {}): tf.Tensor {
    return tf.tidy(() => {
      const input = onlyInput(inputs); // [..., C]
      const x = flatten(input, input.shape.at(-1) as number); // [N, C], once for all three
      const [rows] = x.shape;
      const most = Math.max(1, Math.floor(backendTraits().maxTensorBytes / (4 * this.widest)));
      const parts: tf.Tensor2D[] = [];
      for (let row = 0; row < rows; row += most) {
        const some = rows <= most ? x : x.slice([row, 0], [Math.min(most, rows - row), -1]);
        parts.push(this.computeRows(some, {...kwargs, isUnread, part: {first: row, of: rows}}));
      }
      return unflatten(parts.length === 1 ? parts[0] : (tf.concat(parts) as tf.Tensor2D), input); // [..., C]
    });
  }

  /** Computes some rows, `[n, C]`. Dropout's masks differ from part to part. */
  private computeRows(
    x: tf.Tensor2D,
    {isUnread, seed, ...kwargs}: LoRACallArgs & {part: RowPart},
  ): tf.Tensor2D {
    const own = {...kwargs, seed: seed === undefined ? undefined : seed + kwargs.part.first};
    const [gate, up] = this.projectInputs(x, own); // [n, intermediateSize]
    return this.down_proj.apply(this.activate(gate, up), {...own, isUnread}) as tf.Tensor2D; // [n, C]
  }

  /** Number of columns of the widest projection. */
  protected get widest(): number {
    return this.intermediateSize;
  }

  /** Projects `[n, C]` to the gate and to what it scales, each `[n, intermediateSize]`. */
  protected projectInputs(x: tf.Tensor2D, options: LoRACallArgs): [gate: tf.Tensor, up: tf.Tensor] {
    return [this.gate_proj.apply(x, options) as tf.Tensor, this.up_proj.apply(x, options) as tf.Tensor];
  }

  /** Scales by the gate. */
  protected activate(gate: tf.Tensor, up: tf.Tensor): tf.Tensor {
    return swiGLU(gate, up);
  }

  override getConfig(): tf.serialization.ConfigDict {
    return {
      ...super.getConfig(),
      intermediateSize: this.intermediateSize,
      useBias: this.useBias,
      storage: this.storage,
      weightInitializer: serializeInitializer(this.weightInitializer),
    };
  }
}
tf.serialization.registerClass(SwiGLU);

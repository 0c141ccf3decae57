import * as tf from '@tensorflow/tfjs';
import {
  type FieldValues,
  LORA_FIELDS,
  LoRAAdapter,
  LoRADense,
  type LoRAFields,
  Parameter,
} from 'tfjs-lora/layers';
import {registerAdapter} from 'tfjs-lora/models';

/** VeRA's settings, with their keys in `adapter_config.json`. */
const FIELDS = {
  rank: {...LORA_FIELDS.rank, peftDefault: 256},
  dropout: {...LORA_FIELDS.dropout, peftKey: 'vera_dropout'},
  /** First value of the scales between A and B. */
  dInitial: {kind: 'number', peftKey: 'd_initial', default: 0.1, limits: ['a number', Number.isFinite]},
  /** Seed of the projections A and B. */
  projectionSeed: {kind: 'number', peftKey: 'projection_seed', default: 0},
} as const satisfies LoRAFields;

type VeRAArgs = FieldValues<typeof FIELDS> & {rank: number};

/**
 * VeRA's adapter: `(b ∘ B) · (d ∘ A)`, where A and B are random, frozen, and the same in all layers of a size; only the
 * scales `d` `[rank]` and `b` `[units]` train. Kopiczko et al. 2024, https://arxiv.org/abs/2310.11454.
 *
 * The files have the scales alone. A and B are drawn again from the seed, with numbers that PEFT would not draw, so the
 * files' `peft_type` is not PEFT's `VERA`.
 */
export class VeRAAdapter extends LoRAAdapter {
  static override readonly fields = FIELDS;
  static override readonly peftType: string = 'SEEDED_VERA';
  /** `[rank]` float32. */
  readonly scalesOfA: Parameter;
  /** `[units]` float32, zeros at first, so that the layer starts equal to its base. */
  readonly scalesOfB: Parameter;

  constructor(
    name: string,
    where: string,
    [units, inputDim]: [units: number, inputDim: number],
    args: VeRAArgs,
    rowNorms: () => tf.Tensor,
  ) {
    const {rank, projectionSeed = FIELDS.projectionSeed.default, dInitial = FIELDS.dInitial.default} = args;
    super(name, where, [units, inputDim], args, rowNorms, () => ({
      loraA: takeProjection('A', [rank, inputDim], projectionSeed),
      loraB: takeProjection('B', [units, rank], projectionSeed),
    }));
    this.scalesOfA = new Parameter({
      name: `${where}.vera_lambda_d.${name}`,
      shape: [rank],
      initialize: () => tf.fill([rank], dInitial),
    });
    this.scalesOfB = new Parameter({
      name: `${where}.vera_lambda_b.${name}`,
      shape: [units],
      initialize: () => tf.zeros([units]),
    });
  }

  override get scaling(): number {
    return this.weight;
  }

  override get parameters(): Map<string, Parameter> {
    return new Map([
      ['vera_lambda_d', this.scalesOfA],
      ['vera_lambda_b', this.scalesOfB],
    ]);
  }

  override factors(): {a: tf.Tensor2D; b: tf.Tensor2D} {
    const {a, b} = super.factors();
    return {
      a: tf.mul(a, tf.expandDims(this.scalesOfA.read(), 1)), // [rank, inputDim]
      b: tf.mul(b, tf.expandDims(this.scalesOfB.read(), 1)), // [units, rank]
    };
  }

  override dispose(): void {
    super.dispose();
    for (const projection of [this.loraA, this.loraB]) giveBack(projection);
  }
}

/** A linear layer with VeRA: `model.applyLoRA({rank: 256, layerClass: VeRADense})`. */
export class VeRADense extends LoRADense {
  static override className = 'VeRADense';
  static override readonly adapterClass = VeRAAdapter;
  static override get optionNames() {
    return super.optionNames; // refuses other options
  }
}
tf.serialization.registerClass(VeRADense);
registerAdapter(VeRADense);

/** The projections in use, by what they are drawn from, with the number of adapters that use each. */
const projections = new Map<string, {projection: Parameter; users: number}>();

/** Returns a frozen random matrix, which all adapters share that ask for the same one. */
function takeProjection(which: 'A' | 'B', shape: [rows: number, cols: number], seed: number): Parameter {
  const name = `vera_${which}.${shape.join('x')}.${seed}`;
  const held = projections.get(name);
  if (held) {
    held.users++;
    return held.projection;
  }
  const bound = Math.sqrt(3 / shape[1]); // Kaiming's uniform for a linear layer
  const projection = new Parameter({
    name,
    shape,
    trainable: false,
    initialize: () => tf.randomUniform(shape, -bound, bound, 'float32', hashed(name)),
  });
  // A model that is made only to be counted has no memory for its weights, and others cannot share those.
  if (projection.isAllocated) projections.set(name, {projection, users: 1});
  return projection;
}

function giveBack(projection: Parameter): void {
  const held = projections.get(projection.originalName);
  if (held?.projection === projection) {
    if (--held.users > 0) return;
    projections.delete(projection.originalName);
  }
  projection.dispose();
}

/** Returns a 32-bit FNV-1a hash, so that each matrix has a seed of its own. */
function hashed(text: string): number {
  let hash = 0x811c9dc5;
  for (const letter of text) hash = Math.imul(hash ^ letter.charCodeAt(0), 0x01000193);
  return hash >>> 0;
}

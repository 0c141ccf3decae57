import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import {Adapter} from './adapter.ts';
import type {ModuleLayer} from './moduleLayer.ts';
import {releaseWeightsOf} from './ops/tfjsInternals.ts';
import {unpackMatrix} from './ops/unpackMatrix.ts';
import {type Parameter, withoutAllocation} from './parameter.ts';
import {QuantizedParameter} from './quantizedParameter.ts';
import {TiedHead} from './tiedHead.ts';
import {TokenEmbedding} from './tokenEmbedding.ts';
import {TransposedDense} from './transposedDense.ts';

/** A copy of a whole layer that trains in its place: an entry of PEFT's `modules_to_save`. Its weights are float32. */
export class LayerCopy extends Adapter {
  /**
   * @param layer the copy
   * @param source the adapter of another layer that owns the weights of this copy, a tied head
   */
  constructor(
    name: string,
    readonly layer: ModuleLayer,
    readonly source?: LayerCopy,
  ) {
    super(name);
  }

  /** Returns the copy of a tied head whose embedding has a copy: a head tied to that. */
  static tied(head: TiedHead, source: LayerCopy): LayerCopy {
    const embedding = source.layer as TokenEmbedding;
    const layer = new TiedHead({name: head.name, embedding});
    layer.build([null, embedding.hiddenSize]);
    return new LayerCopy(source.name, layer, source);
  }

  /**
   * Copies a layer.
   *
   * @throws TfjsLoraError `UNSUPPORTED` for a quantized layer, and for a class that cannot be built from its config
   */
  static of(name: string, layer: ModuleLayer): LayerCopy {
    const copy = withoutAllocation(() => emptyLike(layer));
    const sources = layer instanceof TiedHead ? new Map([['weight', layer.weight]]) : layer.parameters;
    for (const [key, source] of sources) {
      const target = copy.parameters.get(key);
      if (!target || !tf.util.arraysEqual(target.logicalShape, source.logicalShape)) throw uncopied(layer);
      if (source.isAllocated) tf.tidy(() => void target.write(float32Of(source)));
    }
    return new LayerCopy(name, copy);
  }

  override get parameters(): Map<string, Parameter> {
    return this.source?.parameters ?? this.layer.parameters;
  }

  override get ownsParameters(): boolean {
    return this.source === undefined;
  }

  override placedKey(key: string): string {
    return `modules_to_save.${this.name}.${key}`;
  }

  override dispose(): void {
    releaseWeightsOf(this.layer);
  }
}

/** Returns a weight's value as float32, in memory of its own: optimizers write in place. */
function float32Of(source: Parameter): tf.Tensor {
  const value = source.logicalShape.length === 2 ? unpackMatrix(source.matrix()) : source.read();
  return source.storage === 'float32' ? tf.mul(value, 1) : value;
}

/** Returns a built layer of the same class and settings with trainable weights in float32, declared without values. */
function emptyLike(layer: ModuleLayer): ModuleLayer {
  const {name} = layer;
  if ([...layer.parameters.values()].some((parameter) => parameter instanceof QuantizedParameter)) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `LoRA modulesToSave ${name}: expected a layer in 16 or 32 bits, got a quantized one, which cannot train. Leave it ` +
        'out, or name it in skipModules when you quantize.',
    );
  }
  if (layer instanceof TiedHead) {
    const dense = new TransposedDense({name, units: layer.units, useBias: false});
    dense.build([null, layer.inputDim]);
    return dense;
  }
  const config = {
    ...layer.getConfig(),
    name,
    trainable: true,
    ...('storage' in layer && {storage: 'float32'}),
  };
  const copy = new (layer.constructor as new (args: object) => ModuleLayer)(config);
  const [first] = layer.parameters.values();
  if (first === undefined) throw uncopied(layer);
  copy.build([null, layer instanceof TokenEmbedding ? null : (first.logicalShape.at(-1) as number)]);
  copy.built = true;
  return copy;
}

function uncopied(layer: ModuleLayer): TfjsLoraError {
  return new TfjsLoraError(
    'UNSUPPORTED',
    `LoRA modulesToSave ${layer.name}: expected a layer that its config and the size of its input describe, got a ` +
      `${layer.constructor.name}`,
  );
}

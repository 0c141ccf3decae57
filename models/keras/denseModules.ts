import * as tf from '@tensorflow/tfjs';
import {KerasDense} from '../../layers/kerasDense.ts';
import {LoRADense} from '../../layers/loraDense.ts';
import {graphNodes, setUserCountOf, userCountOf} from '../../layers/ops/tfjsInternals.ts';
import {QuantizedDense} from '../../layers/quantizedDense.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {AdapterSet} from '../peft/adapterSet.ts';
import {optionsOfLayers} from '../peft/optionsOfLayers.ts';
import type {LayeredModel} from '../replaceLayer.ts';
import {FrozenBatchNorm} from './frozenBatchNorm.ts';
import {rebuildModel} from './rebuildModel.ts';

type Layer = tf.layers.Layer;

/**
 * The dense layers of a `tf.LayersModel`, at any depth, as adapters and quantization need them. Layers replaced
 * here take effect in {@link rebuilt}; the given model does not change.
 *
 * A layer of a nested model has the nested model's name before its own: `encoder.dense_1`.
 */
export class DenseModules implements LayeredModel {
  /** Our dense layers unchanged, and those of Keras as layers that share their weights. */
  readonly layers: (TransposedDense | LoRADense)[] = [];
  /** The other layers that have weights, with the reason why they cannot be adapted. */
  readonly refused = new Map<string, string>();
  readonly adapters: AdapterSet;
  readonly sharesBase = true;
  private readonly places = new Map<Layer, number>();

  /**
   * @param call name of the function, for messages
   * @throws TfjsLoraError `INVALID_ARGUMENT` for a value that is not a model or for a model with an `applyLoRA` of its
   *   own, `UNKNOWN_TARGET` for a model without dense layers
   */
  constructor(
    call: string,
    private readonly model: tf.LayersModel,
  ) {
    if (!(model instanceof tf.LayersModel)) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `${call} model: expected a tf.LayersModel, got ${typeof model}`,
      );
    }
    if ('applyLoRA' in model) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `${call} model ${model.name}: expected a model of Keras layers, got a ${model.getClassName()}, which has adapters of its ` +
          `own. Use model.${call}(…).`,
      );
    }
    const names = this.find(model, '', new Set());
    if (this.layers.length === 0) {
      throw new TfjsLoraError(
        'UNKNOWN_TARGET',
        `${call} model ${model.name}: expected at least one dense layer, got none. Its layers: ${names.join(', ')}.`,
      );
    }
    this.adapters = new AdapterSet(this, optionsOfLayers(this.adapted, this.names));
  }

  /** The layers that have adapters. */
  get adapted(): LoRADense[] {
    return this.layers.filter((layer) => layer instanceof LoRADense);
  }

  private get names(): string[] {
    return this.layers.map(({name}) => name);
  }

  /** Finds the dense layers. @returns a description of all layers, for messages */
  private find(model: tf.LayersModel, prefix: string, seen: Set<Layer>): string[] {
    return graphNodes(model).flatMap(({outboundLayer: layer}) => {
      if (seen.has(layer) || layer.getClassName() === 'InputLayer') return [];
      seen.add(layer);
      const name = layer.name.startsWith(prefix) ? layer.name : `${prefix}${layer.name}`;
      if (layer instanceof tf.LayersModel) return this.find(layer, `${name}.`, seen);
      this.add(layer, name);
      return [`${name} (${layer.getClassName()})`];
    });
  }

  private add(layer: Layer, name: string): void {
    const className = layer.getClassName();
    const isOurs = layer instanceof TransposedDense || layer instanceof LoRADense;
    if (isOurs || className === 'Dense') {
      this.places.set(layer, this.layers.length);
      this.layers.push(isOurs ? layer : KerasDense.sharing(layer, name));
    } else if (layer.weights.length > 0) {
      this.refused.set(
        name,
        `only dense layers are supported, and it is a ${className}${ADVICE[className] ?? ''}`,
      );
    }
  }

  /** Makes a model with the current layers, in which all weights except those of trained adapters are frozen. */
  rebuilt(): tf.LayersModel {
    return rebuildModel(this.model, (layer) => {
      const place = this.places.get(layer);
      const here = place === undefined ? undefined : this.layers[place];
      if (here === layer && here instanceof LoRADense) return here; // its adapters are already trainable or frozen
      if (here instanceof QuantizedDense) return here;
      layer.trainable = false;
      if (here instanceof LoRADense) {
        hold(here.base);
        return here;
      }
      return layer.getClassName() === 'BatchNormalization' ? FrozenBatchNorm.sharing(layer) : layer;
    });
  }
}

const ADVICE: Record<string, string> = {
  TimeDistributed: '. A dense layer alone works on the last axis of any input, too',
};

/** Counts a layer around a base as another user of it. */
function hold(base: TransposedDense): void {
  if (base instanceof KerasDense) base.hold();
  else setUserCountOf(base, userCountOf(base) + 1);
}

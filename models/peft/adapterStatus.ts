import type {AdaptedLayer} from '../../layers/adaptedLayer.ts';
import {LoRAAdapter} from '../../layers/loraAdapter.ts';
import {LoRADense} from '../../layers/loraDense.ts';
import {ModuleLayer, walk} from '../../layers/moduleLayer.ts';
import type {Parameter} from '../../layers/parameter.ts';
import {QuantizedParameter} from '../../layers/quantizedParameter.ts';
import {TiedHead} from '../../layers/tiedHead.ts';
import {
  countParameters,
  formatCount,
  type ParameterCounts,
  printTable,
  type SummarizedModel,
} from '../summary.ts';
import type {AdapterSet} from './adapterSet.ts';

/** The state of an adapter in several layers; `irregular`, PEFT's word, if it differs between them. */
type InLayers = boolean | 'irregular';

/** The state of one adapter. */
export interface AdapterStatus extends ParameterCounts {
  name: string;
  /** `LORA`, or the `peft_type` of its class. */
  peftType: string;
  isActive: InLayers;
  isMerged: InLayers;
  /** Whether its weights train. */
  isTrainable: InLayers;
  /** Ranks of its low-rank updates, without duplicates, in ascending order. */
  ranks: number[];
  /** Types of its weights, without duplicates. */
  dtypes: string[];
  /** Number of layers that it changes. */
  layers: number;
}

/** The state of one layer with adapters. */
export interface AdaptedLayerStatus {
  name: string;
  className: string;
  /** Types of the base's weights, without duplicates, such as `bfloat16` or `nf4`. */
  dtypes: string[];
  /** The active adapters, in the order in which they are applied. */
  activeAdapters: string[];
  /** The adapters that its base contains. */
  mergedAdapters: string[];
  /** Each adapter of the layer. Low-rank updates also have a rank. */
  adapters: Record<string, ParameterCounts & {isTrainable: InLayers; rank?: number}>;
}

/** The adapters of a model and its layers: PEFT's `get_model_status()` and `get_layer_status()`. */
export interface AdaptersStatus extends ParameterCounts {
  adapters: AdapterStatus[];
  layers: AdaptedLayerStatus[];
}

/** Describes the adapters of a model; see `adapterStatus` of a model. */
export function adapterStatus(adapters: AdapterSet): AdaptersStatus {
  const layers = [...adapters.layers().values()];
  return {
    ...countParameters(adapters.model),
    adapters: adapters.names.map((name) => statusOf(name, adapters, layers)),
    layers: layers.map(layerStatus),
  };
}

function statusOf(name: string, adapters: AdapterSet, all: AdaptedLayer[]): AdapterStatus {
  const layers = all.filter((layer) => layer.adapters.has(name));
  const placed = layers.map((layer) => layer.adapter(name));
  const weights = [...new Set(placed.flatMap(({sources}) => sources))];
  const ranks = placed.flatMap((adapter) => (adapter instanceof LoRAAdapter ? adapter.settings.rank : []));
  const {layerClass = LoRADense} = adapters.options(name);
  return {
    name,
    peftType: layerClass.adapterClass.peftType,
    isActive: inAll(layers, (layer) => layer.activeAdapters.includes(name)),
    isMerged: inAll(layers, (layer) => mergedInto(layer).includes(name)),
    isTrainable: trains(weights),
    ranks: [...new Set(ranks)].sort((a, b) => a - b),
    dtypes: dtypesOf(weights),
    layers: layers.length,
    ...counted(weights),
  };
}

function layerStatus(layer: AdaptedLayer): AdaptedLayerStatus {
  const {original} = layer;
  const base = [...walk([original])].filter((inner) => inner instanceof ModuleLayer);
  const shared = original instanceof TiedHead ? [original.weight] : [];
  return {
    name: layer.name,
    className: layer.getClassName(),
    dtypes: dtypesOf([...base.flatMap(({parameters}) => [...parameters.values()]), ...shared]),
    activeAdapters: [...layer.activeAdapters],
    mergedAdapters: mergedInto(layer),
    adapters: Object.fromEntries(
      [...layer.adapters].map(([name, adapter]) => [
        name,
        {
          isTrainable: trains(adapter.sources),
          ...(adapter instanceof LoRAAdapter && {rank: adapter.settings.rank}),
          ...counted(adapter.sources),
        },
      ]),
    ),
  };
}

const mergedInto = ({isMerged, activeAdapters}: AdaptedLayer) => (isMerged ? [...activeAdapters] : []);

const trains = (weights: readonly Parameter[]) => inAll(weights, ({trainable}) => trainable);

function inAll<T>(items: readonly T[], is: (item: T) => boolean): InLayers {
  return items.every(is) || (items.some(is) ? 'irregular' : false);
}

function dtypesOf(weights: readonly Parameter[]): string[] {
  return [
    ...new Set(
      weights.map((weight) => (weight instanceof QuantizedParameter ? weight.quantType : weight.storage)),
    ),
  ];
}

function counted(weights: readonly Parameter[]): ParameterCounts {
  const sum = (some: readonly Parameter[]) => some.reduce((total, {size}) => total + size, 0);
  return {total: sum(weights), trainable: sum(weights.filter(({trainable}) => trainable))};
}

/** Prints a table of a model's adapters; see `adapterSummary` of a model. */
export function printAdapters(
  model: SummarizedModel,
  adapters: AdapterSet,
  lineLength = 100,
  positions: number[] = [0.3, 0.54, 0.66, 0.75, 0.88, 1],
  printFn?: (line: string) => void,
): void {
  const status = adapterStatus(adapters);
  const rows = status.adapters.map((each) => [
    `${each.name} (${each.peftType})`,
    stateOf(each),
    each.ranks.join(', '),
    String(each.layers),
    formatCount(each.total),
    formatCount(each.trainable),
  ]);
  const head = ['Adapter (type)', 'State', 'Ranks', 'Layers', 'Param #', 'Trainable #'];
  printTable(model, [head, ...rows], status, lineLength, positions, printFn);
}

/** Describes the state in words: `active, merged`, `inactive`, `active in some layers, frozen`. */
function stateOf({isActive, isMerged, isTrainable}: AdapterStatus): string {
  const inSome = (is: InLayers, word: string) =>
    is === 'irregular' ? `${word} in some layers` : is ? word : [];
  const active = isActive ? inSome(isActive, 'active') : 'inactive';
  return [active, inSome(isMerged, 'merged'), isActive && !isTrainable ? 'frozen' : []].flat().join(', ');
}

import {AsyncLocalStorage} from 'node:async_hooks';
import type {AdaptedLayer} from '../../layers/adaptedLayer.ts';
import {DEFAULT_ADAPTER} from '../../layers/adapter.ts';
import {LoRADense} from '../../layers/loraDense.ts';
import type {Parameter} from '../../layers/parameter.ts';
import {renameKeys} from '../../layers/renameKeys.ts';
import type {TransposedDense} from '../../layers/transposedDense.ts';
import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';
import {assertKnownOptions} from '../../quant/knownOptions.ts';
import {show} from '../../quant/show.ts';
import {warn} from '../../quant/warn.ts';
import {type LayeredModel, replaceLayer} from '../replaceLayer.ts';
import {adaptedLayers} from './adaptableLayers.ts';
import {AdapterMerge, type MergeAdaptersOptions} from './adapterMerge.ts';
import {adapterPlan} from './adapterPlan.ts';
import {changesBase} from './initialization/changesBase.ts';
import {assertLoRAKinds, type LoRAOptions, loraOptions} from './loraOptions.ts';
import {placeAdapter} from './placeAdapter.ts';
import {rememberTraining} from './rememberTraining.ts';
import {replicateLayers} from './replicateLayers.ts';
import {BASE, RowAdapters} from './rowAdapters.ts';
import {layersWithTrainedBias, trainBiasesOf, trainsBiases} from './trainedBiases.ts';
import {wrongOption} from './wrongOption.ts';

/** Contents of a loaded adapter's files beyond its options, so that saving can preserve them. */
export interface LoadedFrom {
  /** The `adapter_config.json` that was read, with what changed in the adapter since. */
  config: Record<string, unknown>;
  /** Weights of the model that the adapter replaced, by their key in the file. */
  baseWeights: Map<string, Parameter>;
}

/** Initialization of an adapter from its base. */
export interface Initialized {
  /** `init_lora_weights` in PEFT's config. */
  method: string;
  /** The keys of PEFT's config that it sets; none if the adapter's file says how it was initialized. */
  config: Record<string, unknown>;
  /** The first A and B of layers whose base had their product subtracted. */
  initial: ReadonlyMap<string, {a: Float32Array; b: Float32Array}>;
}

/** The adapters of one model: their names and options, their layers, and which are active. */
export class AdapterSet {
  private readonly filesByName = new Map<string, LoadedFrom>();
  private readonly initializedByName = new Map<string, Initialized>();
  /** The method of the adapter whose initialization changed the base. */
  baseChangedBy?: string;
  private readonly warnedOf = new Set<string>();
  /** The calls of {@link with} that have not ended, each inside the one before it. */
  private readonly calls: object[] = [];
  /** The call of {@link with} that the running code belongs to, also after an await. */
  private readonly ownCall = new AsyncLocalStorage<object>();
  /** Merges the active adapters, and restores the base. */
  readonly merging: AdapterMerge;

  /** @param optionsByName options of the adapters that the model already has */
  constructor(
    readonly model: LayeredModel,
    private readonly optionsByName = new Map<string, LoRAOptions>(),
  ) {
    this.merging = new AdapterMerge(model);
  }

  get names(): string[] {
    return [...this.optionsByName.keys()];
  }

  get active(): string[] {
    const active = new Set([...this.layers().values()].flatMap((layer) => layer.activeAdapters));
    return this.names.filter((name) => active.has(name));
  }

  options(name: string = DEFAULT_ADAPTER): LoRAOptions {
    this.assertKnown(name);
    return this.optionsByName.get(name) as LoRAOptions;
  }

  /** Returns the contents that an adapter was loaded from; undefined for one that was made here. */
  loadedFrom(name: string): LoadedFrom | undefined {
    this.assertKnown(name);
    return this.filesByName.get(name);
  }

  /** Returns how an adapter was initialized from its base; undefined if it was not. */
  initialized(name: string): Initialized | undefined {
    this.assertKnown(name);
    return this.initializedByName.get(name);
  }

  /** Replaces what is known of an adapter whose weights were replaced. */
  replace(name: string, options: LoRAOptions, loadedFrom?: LoadedFrom): void {
    this.assertKnown(name);
    this.optionsByName.set(name, options);
    this.filesByName.delete(name);
    this.initializedByName.delete(name);
    if (loadedFrom) this.filesByName.set(name, loadedFrom);
  }

  setInitialized(name: string, initialized: Initialized): void {
    this.assertKnown(name);
    this.initializedByName.set(name, initialized);
    if (changesBase(initialized.method)) this.baseChangedBy = initialized.method;
  }

  /**
   * Returns the only active adapter, or `default`.
   *
   * @param call for messages
   * @throws TfjsLoraError `UNKNOWN_ADAPTER` if there is neither
   */
  sole(call: string): string {
    const {active, names} = this;
    if (active.length === 1) return active[0];
    if (names.includes(DEFAULT_ADAPTER)) return DEFAULT_ADAPTER;
    throw new TfjsLoraError(
      'UNKNOWN_ADAPTER',
      `${call}: expected one active adapter, got ${active.join(', ') || 'none'}. Name the one you mean.`,
    );
  }

  /** Returns the layers with adapters of any kind, by name. */
  layers(): Map<string, AdaptedLayer> {
    return adaptedLayers(this.model.layers);
  }

  /** Returns the layers with low-rank adapters, by name. */
  lowRank(): Map<string, LoRADense> {
    const found = [...this.layers().values()].filter((layer) => layer instanceof LoRADense);
    return new Map(found.map((layer) => [layer.name, layer]));
  }

  /**
   * Adds an adapter. If anything is wrong, the model does not change.
   *
   * @param fill writes the new adapter's weights; if it throws, the set does not change
   * @param loadedFrom contents of a loaded adapter's files
   */
  add(options: LoRAOptions, fill?: () => void, loadedFrom?: LoadedFrom): void {
    const {layerClass = LoRADense} = Object(options) as LoRAOptions;
    assertKnownOptions('applyLoRA', options, loraOptions(layerClass.adapterClass.fields));
    assertLoRAKinds(options, layerClass.adapterClass.fields);
    const undo = replicateLayers(this.model, options, this.names);
    const layerReplication = this.model.replication && {layerReplication: [...this.model.replication]};
    try {
      this.addTo({...options, ...layerReplication} as LoRAOptions, fill, loadedFrom);
    } catch (error) {
      undo?.();
      throw error;
    }
  }

  private addTo(given: LoRAOptions, fill?: () => void, loadedFrom?: LoadedFrom): void {
    const {adapterName = DEFAULT_ADAPTER, bias} = given;
    this.assertNewAdapter(adapterName);
    this.assertBiases(adapterName, bias);
    const plan = adapterPlan(this.model, given, loadedFrom !== undefined);
    const restore = rememberTraining(this.model.layers);
    placeAdapter(this.model, plan);
    this.optionsByName.set(adapterName, plan.options);
    if (loadedFrom) this.filesByName.set(adapterName, loadedFrom);
    this.activate(adapterName);
    if (trainsBiases(bias) && this.biasLayers(adapterName).length === 0)
      warn(`adapter "${adapterName}" bias ${bias}: the layers that it names have no biases, so none trains`);
    try {
      fill?.();
    } catch (error) {
      this.remove(adapterName, false);
      restore();
      throw error;
    }
  }

  private assertNewName(adapterName: string): void {
    if (typeof adapterName !== 'string' || !/^[\w-]+$/.test(adapterName) || adapterName === BASE) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `adapter name ${show(adapterName)}: expected letters, digits, _ or -, and not ${BASE}, which means no adapter`,
      );
    }
    if (this.optionsByName.has(adapterName)) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `adapter "${adapterName}": expected a new name, got one that exists. ` +
          `Call deleteAdapter("${adapterName}") first, or pass adapterName.`,
      );
    }
  }

  /** Refuses a wrong name, and an adapter for a base that is not as it was. */
  private assertNewAdapter(adapterName: string): void {
    this.assertNewName(adapterName);
    this.assertOutside(`adapter "${adapterName}"`);
    if (this.merging.isMerged) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `adapter "${adapterName}": expected unmerged weights. Call unmergeLoRA() or fuseLoRA() first.`,
      );
    }
    if (this.baseChangedBy !== undefined) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `adapter "${adapterName}": expected an unchanged base, got one that ${this.baseChangedBy} changed: another adapter ` +
          'would be wrong on it. Load the model again; saveAdapter(folder, name, {convertToLoRA: true}) writes an adapter ' +
          'for the unchanged base.',
      );
    }
  }

  /** Refuses to train biases where that would change what another adapter or model computes. */
  private assertBiases(adapterName: string, bias: LoRAOptions['bias'] = 'none'): void {
    const [expected, accepts] = loraOptions().bias.limits!;
    if (!accepts(bias)) throw wrongOption('bias', expected, show(bias));
    if (!trainsBiases(bias)) return;
    if (this.model.sharesBase)
      throw wrongOption('bias', 'none, because the base is shared with the given model', bias);
    const other = this.names.find((name) => trainsBiases(this.options(name).bias));
    if (other === undefined) return;
    throw wrongOption(`bias of "${adapterName}"`, `none beside "${other}", which trains biases too`, bias);
  }

  /** Returns the layers whose biases an adapter trains. */
  biasLayers(name: string): TransposedDense[] {
    return layersWithTrainedBias(this.model.layers, name, this.options(name).bias);
  }

  /** Makes an adapter train, with the biases that belong to it, or freezes them. */
  setTrainable(name: string, trainable: boolean): void {
    for (const layer of this.layers().values()) {
      const adapter = layer.adapters.get(name);
      if (adapter) adapter.trainable = trainable;
    }
    trainBiasesOf(this.model.layers, trainable ? this.biasLayers(name) : []);
  }

  activate(names: string | string[] | Record<string, number>): void {
    this.assertOutside('setAdapter');
    if (this.merging.isMerged)
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        'setAdapter: expected unmerged weights. Call unmergeLoRA() first.',
      );
    const weights = new Map<string, number>(
      typeof names === 'string' || Array.isArray(names)
        ? [names].flat().map((name) => [name, 1])
        : Object.entries(names),
    );
    for (const [name, weight] of weights) {
      this.assertKnown(name);
      if (Number.isFinite(weight)) continue;
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `setAdapter weight of "${name}": expected a number, got ${weight}`,
      );
    }
    for (const layer of this.layers().values()) layer.assertActive(weights);
    for (const layer of this.layers().values()) {
      layer.activeAdapters = [...weights.keys()].filter((name) => layer.adapters.has(name));
      for (const [name, adapter] of layer.adapters) {
        adapter.trainable = weights.has(name);
        adapter.weight = weights.get(name) ?? 1;
      }
    }
    trainBiasesOf(
      this.model.layers,
      [...weights.keys()].flatMap((name) => this.biasLayers(name)),
    );
  }

  /**
   * Refuses what depends on the active adapters in code that runs beside a call of {@link with}, or after the call that it
   * belongs to.
   *
   * @param what for messages
   * @throws TfjsLoraError `UNSUPPORTED`
   */
  assertOwnCall(what: string): void {
    const own = this.ownCall.getStore();
    const active = this.calls.at(-1);
    if (own === active) return;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      active
        ? `${what}: expected a call after or inside withAdapters or withoutAdapter, which has other adapters active until it ` +
            'ends, got one beside it. Await it first, or pass adapterNames to generate or predict instead; browsers, which ' +
            'do not know what code after an await belongs to, always need the latter.'
        : `${what}: expected withAdapters or withoutAdapter to last until its function is done, got a call from inside after ` +
            'it ended. Return the promise of that call from the function.',
    );
  }

  private assertOutside(what: string): void {
    if (this.calls.length === 0) return;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${what}: expected a call after withAdapters or withoutAdapter, which restores the active adapters when it ends, got one ` +
        'inside it.',
    );
  }

  /** Gives an adapter another name, in its place among the others. */
  rename(name: string, newName: string): void {
    this.assertKnown(name);
    this.assertNewName(newName);
    for (const layer of this.layers().values())
      if (layer.adapters.has(name)) layer.renameAdapter(name, newName);
    const names = new Map([[name, newName]]);
    for (const map of [this.optionsByName, this.filesByName, this.initializedByName])
      renameKeys<unknown>(map, names);
    this.optionsByName.set(newName, {...this.options(newName), adapterName: newName});
  }

  /** @param warns whether to say what stays of it in the base. Default true */
  remove(name: string, warns = true): void {
    this.assertKnown(name);
    this.merging.unmerge(); // all layers, or some would keep their update
    const biases = this.biasLayers(name);
    if (biases.length > 0) trainBiasesOf(this.model.layers, []);
    for (const layer of this.layers().values()) {
      if (!layer.adapters.has(name)) continue;
      layer.removeAdapter(name);
      if (layer.adapters.size === 0) replaceLayer(this.model, layer, layer.fuse());
    }
    this.optionsByName.delete(name);
    this.filesByName.delete(name);
    const method = this.initializedByName.get(name)?.method;
    this.initializedByName.delete(name);
    if (warns && biases.length > 0)
      warn(
        `adapter "${name}" was deleted, but the biases that it trained stay as they are: load the model again.`,
      );
    if (method !== undefined && changesBase(method))
      warn(
        `adapter "${name}" was deleted, but ${method} had changed the base, which stays so: load the model again.`,
      );
  }

  /** Runs `fn` while only the named adapters are active. Their weights, what trains and what is merged do not change. */
  with<R>(names: readonly string[], fn: () => R): R {
    for (const name of names) this.assertKnown(name);
    this.warnOfBiases(names);
    const weightOf = (layer: AdaptedLayer) => (name: string) =>
      [name, layer.adapters.get(name)?.weight ?? 1] as const;
    for (const layer of this.layers().values()) layer.assertActive(new Map(names.map(weightOf(layer))));
    const before = [...this.layers().values()].map((layer) => {
      return [layer, layer.activeAdapters.map((name) => layer.adapter(name))] as const;
    });
    const merged = this.merging.isMerged;
    if (merged) this.merging.unmerge();
    const call = {};
    this.calls.push(call);
    for (const [layer] of before) layer.activeAdapters = names.filter((name) => layer.adapters.has(name));
    const restore = () => {
      const place = this.calls.indexOf(call);
      if (place < 0) return; // the call around it ended earlier, and has restored the adapters
      this.calls.splice(place);
      if (before.some(([layer]) => layer.isMerged)) this.merging.unmerge(); // what was merged meanwhile
      for (const [layer, active] of before) {
        const left = active.filter((adapter) => layer.adapters.get(adapter.name) === adapter); // renamed or deleted meanwhile
        layer.activeAdapters = left.map(({name}) => name);
      }
      // as before: a quantized base can only be merged dequantized
      if (merged && this.active.length > 0) this.merging.merge({dequantize: true});
    };
    let result: R;
    try {
      result = this.ownCall.run(call, fn);
      assertNoStream(result);
    } catch (error) {
      restore();
      throw error;
    }
    if (!(result instanceof Promise)) {
      restore();
      return result;
    }
    return result
      .then((value) => {
        assertNoStream(value);
        return value;
      })
      .finally(restore) as R;
  }

  /**
   * Prepares passes in which each row of a batch has its own adapter. The caller disposes the result.
   *
   * @param names the adapter of each row, or `__base__` for none
   * @throws TfjsLoraError `UNKNOWN_ADAPTER`; `INVALID_ARGUMENT` while adapters are merged; `UNSUPPORTED`
   */
  rows(names: readonly string[]): RowAdapters {
    for (const name of new Set(names)) if (name !== BASE) this.assertKnown(name);
    if (this.merging.isMerged) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        'adapterNames: expected unmerged weights, which all rows share. Call unmergeLoRA() first.',
      );
    }
    return new RowAdapters(this, names);
  }

  /** Warns once about each adapter whose biases stay in the base while it is inactive, as PEFT does. */
  private warnOfBiases(kept: readonly string[]): void {
    for (const name of this.active) {
      const {bias} = this.options(name);
      if (kept.includes(name) || this.warnedOf.has(name) || !trainsBiases(bias)) continue;
      this.warnedOf.add(name);
      warn(
        `adapter "${name}": expected bias none to compute without it, got ${bias}. The biases that it trained stay, so ` +
          'this is not what the base computes.',
      );
    }
  }

  /** Merges the active adapters permanently. The model then has no adapters. */
  fuse(options?: MergeAdaptersOptions): void {
    this.merging.fuse(options);
    for (const names of [this.optionsByName, this.filesByName, this.initializedByName]) names.clear();
    this.baseChangedBy = undefined; // what was taken from the base is in it again
  }

  private assertKnown(name: string): void {
    if (this.optionsByName.has(name)) return;
    const nearest = nearestNames(name, this.names, 5).join(', ');
    throw new TfjsLoraError(
      'UNKNOWN_ADAPTER',
      `adapter ${show(name)}: expected one of ${nearest || '(none was added)'}`,
    );
  }
}

/** Refuses a stream, which would begin to compute only when it is read. */
function assertNoStream(result: unknown): void {
  if (typeof Object(result)[Symbol.asyncIterator] !== 'function') return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    'withAdapters or withoutAdapter: expected a function that reads the stream to its end, got one that returns it. ' +
      'Read it inside, or pass adapterNames to stream instead.',
  );
}

import type * as tf from '@tensorflow/tfjs';
import {AdaptedLayer, MERGE_OPTIONS, type MergeOptions} from '../../layers/adaptedLayer.ts';
import {DEFAULT_ADAPTER} from '../../layers/adapter.ts';
import {CopiedLayer} from '../../layers/copiedLayer.ts';
import {LayerCopy} from '../../layers/layerCopy.ts';
import {LoRAAdapter} from '../../layers/loraAdapter.ts';
import {LoRADense, type LoRADenseClass} from '../../layers/loraDense.ts';
import {LoRAEmbedding} from '../../layers/loraEmbedding.ts';
import {assertLoRAArgs} from '../../layers/loraFields.ts';
import {ModuleLayer, walk} from '../../layers/moduleLayer.ts';
import type {Parameter} from '../../layers/parameter.ts';
import {TiedAdapter} from '../../layers/tiedAdapter.ts';
import {TiedHead} from '../../layers/tiedHead.ts';
import {TokenEmbedding} from '../../layers/tokenEmbedding.ts';
import {TokenRows} from '../../layers/tokenRows.ts';
import {TokenRowsLayer} from '../../layers/tokenRowsLayer.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import {show} from '../../quant/show.ts';
import {warn} from '../../quant/warn.ts';
import {LAYER_WATCH_OPTIONS, type LayerWatch} from '../layerWatch.ts';
import {type LayeredModel, replaceLayer} from '../replaceLayer.ts';
import {changesBase} from './initialization/changesBase.ts';
import {assertPatternsMatch, layerArgs} from './layerArgs.ts';
import {commonSettings, type LoRAOptions, loraOptions} from './loraOptions.ts';
import {PEFT_PREFIX} from './peftPrefix.ts';
import {freezeBase, rememberTraining} from './rememberTraining.ts';
import {BASE, RowAdapters} from './rowAdapters.ts';
import {modulesOf, savedModules} from './savedModules.ts';
import {matchParameters, matchTargets, type TargetCandidates} from './targetModules.ts';
import {type TokenPlan, tokenPlans} from './tokenPlans.ts';
import {layersWithTrainedBias, trainBiasesOf, trainsBiases} from './trainedBiases.ts';

/** Options for merging adapters. A merge does not let the event loop run, so only `onProgress` can abort it. */
export interface MergeAdaptersOptions extends MergeOptions, LayerWatch {}
export const MERGE_ADAPTERS_OPTIONS = {
  ...MERGE_OPTIONS,
  ...LAYER_WATCH_OPTIONS,
} satisfies OptionNames<MergeAdaptersOptions>;

/** Contents of a loaded adapter's files beyond its options, so that saving can preserve them. */
export interface LoadedFrom {
  /** The `adapter_config.json` that was read. */
  config: Record<string, unknown>;
  /** Weights of the model that the adapter replaced, by their key in the file. */
  baseWeights: Map<string, Parameter>;
}

/** How an adapter was initialized from its base. */
export interface Initialized {
  /** `init_lora_weights` in PEFT's config. */
  method: string;
  /** The keys of PEFT's config that belong to it. */
  config: Record<string, unknown>;
  /** The first A and B of layers whose base had their product subtracted. */
  initial: ReadonlyMap<string, {a: Float32Array; b: Float32Array}>;
}

/** The adapters of one model: their names and options, their layers, and which are active. */
export class AdapterSet {
  private readonly filesByName = new Map<string, LoadedFrom>();
  private readonly initializedByName = new Map<string, Initialized>();
  /** The method of the adapter whose initialization changed the base. */
  private baseChangedBy?: string;
  private readonly warnedOf = new Set<string>();
  /** The tied head that a table of its own replaces while adapters are merged. */
  private untied?: {tied: TiedHead; dense: TransposedDense};

  /** @param optionsByName options of the adapters that the model already has */
  constructor(
    private readonly model: LayeredModel,
    private readonly optionsByName = new Map<string, LoRAOptions>(),
  ) {}

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

  /**
   * Gives the layers of the only adapter other ranks. A layer of rank 0 is adapted no more; the matrices of the others
   * start again where the rank changes.
   *
   * @param keepsScale whether alphas change with the ranks
   */
  redistribute(name: string, ranks: ReadonlyMap<string, number>, keepsScale: boolean): void {
    const options = this.options(name);
    const {rank: common, alpha: commonAlpha} = commonSettings(options);
    const [rankPattern, alphaPattern]: Record<string, number>[] = [{}, {}];
    for (const [layerName, layer] of this.lowRank()) {
      const rank = ranks.get(layerName);
      if (rank === undefined) continue;
      const {settings} = layer.adapter(name);
      if (rank === 0) {
        layer.removeAdapter(name);
        replaceLayer(this.model, layer, layer.fuse());
        continue;
      }
      const alpha = keepsScale ? (settings.alpha * rank) / settings.rank : settings.alpha;
      if (rank !== settings.rank) {
        layer.removeAdapter(name);
        layer.addAdapter(name, {...settings, rank, alpha});
      }
      if (rank !== common) rankPattern[layerName] = rank;
      if (alpha !== commonAlpha) alphaPattern[layerName] = alpha;
    }
    const targetModules = [...this.layers().values()]
      .filter((layer) => layer.adapters.has(name) && isLowRank(layer))
      .map((layer) => layer.name);
    const {
      excludeModules: _,
      layersToTransform: __,
      layersPattern: ___,
      targetParameters: ____,
      ...kept
    } = options;
    this.optionsByName.set(name, {...kept, targetModules, rankPattern, alphaPattern});
    const biases = layersWithTrainedBias(this.model.layers, name, kept.bias);
    trainBiasesOf(
      this.model.layers,
      biases.filter(({trainsBiasAlone}) => trainsBiasAlone),
    );
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

  /** Whether an adapter's initialization changed the base. */
  get hasChangedBase(): boolean {
    return this.baseChangedBy !== undefined;
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
    const found = walk(this.model.layers).filter((layer) => layer instanceof AdaptedLayer);
    return new Map(found.map((layer) => [layer.name, layer]));
  }

  /** Returns the layers with low-rank adapters, by name. */
  lowRank(): Map<string, LoRADense> {
    const found = [...this.layers().values()].filter((layer) => layer instanceof LoRADense);
    return new Map(found.map((layer) => [layer.name, layer]));
  }

  /** Whether PEFT writes a weight into an adapter's file again: a tied head's update, or a copied layer's. */
  isRepeated(name: string, adapterName: string): boolean {
    return [...this.layers()].some(([layer, {adapters}]) => {
      const adapter = adapters.get(adapterName);
      const repeats =
        adapter instanceof TiedAdapter
          ? ['lora_A.', 'lora_B.']
          : adapter instanceof LayerCopy
            ? ['original_module.', 'modules_to_save.'] // beside the copy, where the vocabulary was resized
            : [];
      return repeats.some((part) => name.startsWith(`${PEFT_PREFIX}${layer}.${part}`));
    });
  }

  /** Returns the weights that heads share with the embedding, by the names that they would have in files. */
  tiedWeights(): Map<string, Parameter> {
    const tied = walk(this.model.layers).filter((layer) => layer instanceof TiedHead);
    return new Map(tied.map(({name, weight}) => [`${name}.weight`, weight]));
  }

  /** Returns the layers that an adapter with such options copies whole, or ties to a copy. */
  savedModules({modulesToSave = [], ensureWeightTying}: LoRAOptions, allowForeign: boolean): ModuleLayer[] {
    if (modulesToSave.length > 0 && !this.model.lm_head) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `LoRA modulesToSave: expected none for a Keras model, whose other layers are not ours to copy, got ${modulesToSave.join(', ')}`,
      );
    }
    const layers = savedModules(modulesToSave, this.model.layers, allowForeign);
    const tied = ensureWeightTying ? this.tiedTo(layers) : undefined;
    return tied ? [...new Set([...layers, tied.embedding, tied.head])] : layers;
  }

  /**
   * Adds an adapter. If anything is wrong, the model does not change.
   *
   * @param fill writes the new adapter's weights; if it throws, the set does not change
   * @param loadedFrom contents of a loaded adapter's files
   */
  add(options: LoRAOptions, fill?: () => void, loadedFrom?: LoadedFrom): void {
    const undo = this.replicate(options);
    const layerReplication = this.model.replication && {layerReplication: [...this.model.replication]};
    try {
      this.addTo({...options, ...layerReplication} as LoRAOptions, fill, loadedFrom);
    } catch (error) {
      undo?.();
      throw error;
    }
  }

  /** Whether layers share their weights, which must then not change. */
  get isReplicated(): boolean {
    return this.model.replication !== undefined;
  }

  /** Puts layers in a row, if an adapter is made for that. @returns undoes it */
  private replicate({layerReplication: ranges, bias}: LoRAOptions): (() => void) | undefined {
    const {replication} = this.model;
    if ((replication || ranges?.length) && trainsBiases(bias))
      throw wrongOption('bias', 'none with replicated layers, which share theirs', bias!);
    if (!ranges?.length || JSON.stringify(ranges) === JSON.stringify(replication)) return undefined;
    if (replication)
      throw wrongOption('layerReplication', `${show(replication)}, as the model is`, show(ranges));
    if (this.names.length > 0)
      throw wrongOption('layerReplication', 'a model without adapters', this.names.join(', '));
    if (this.model.replicateLayers) return this.model.replicateLayers(ranges);
    throw wrongOption('layerReplication', 'a model with a list of decoder blocks', 'another');
  }

  private addTo(options: LoRAOptions, fill?: () => void, loadedFrom?: LoadedFrom): void {
    const {layerClass = LoRADense} = options;
    const {fields} = layerClass.adapterClass;
    assertKnownOptions('applyLoRA', options, loraOptions(fields));
    const {adapterName = DEFAULT_ADAPTER, targetParameters = [], layersToTransform, bias} = options;
    const {targetModules = targetParameters.length > 0 ? [] : 'all-linear'} = options;
    this.assertNewAdapter(adapterName);
    this.assertBiases(adapterName, bias);
    const byParameter = matchParameters(targetParameters, this.candidates(), options);
    const allowForeign = loadedFrom !== undefined;
    const namesNone = Array.isArray(targetModules) && targetModules.length === 0;
    const byModule =
      byParameter.length > 0 && namesNone
        ? []
        : matchTargets(targetModules, this.candidates(), layersToTransform, {...options, allowForeign});
    const twice = byParameter.find((name) => byModule.includes(name));
    if (twice !== undefined)
      throw wrongOption('targetParameters', 'layers that targetModules leaves out', twice);
    const saved = this.savedModules(options, loadedFrom !== undefined);
    const before = this.adaptable();
    const tied =
      options.ensureWeightTying && saved.length === 0
        ? this.tiedTo(byModule.map((name) => before.get(name)!))
        : undefined;
    const named = byModule.filter((name) => name !== tied?.head.name && name !== tied?.embedding.name);
    const modules = tied ? [tied.embedding.name, ...named, tied.head.name] : byModule;
    const argsFor = layerArgs(options, fields);
    const plans = [
      ...modules.map((name) => ({name, args: argsFor(name)})),
      ...byParameter.map((name) => ({name, args: argsFor(`${name}.weight`)})),
    ];
    // Patterns from a file may name modules of another model, which PEFT allows.
    if (!loadedFrom)
      assertPatternsMatch(options, [...byModule, ...byParameter.map((name) => `${name}.weight`)]);
    for (const {name, args} of plans) {
      const layer = before.get(name)!;
      if (layer instanceof LoRADense) assertSameKind(adapterName, layer, options.layerClass);
      const {base} = layer instanceof AdaptedLayer ? layer : {base: layer};
      if (base instanceof TokenEmbedding) assertFitsEmbedding(name, layerClass);
      const shape =
        base instanceof TokenEmbedding ? [base.hiddenSize, base.vocabSize] : [base.units, base.inputDim];
      assertLoRAArgs(args, name, shape, fields);
    }

    const tokens = this.tokenPlans(
      options,
      [...plans, ...saved].map(({name}) => name),
    );
    if (options.ensureWeightTying && !tied && !this.tiedTo(saved) && !tokens.some(({tiedTo}) => tiedTo)) {
      warn(
        'LoRA ensureWeightTying: expected the embedding, or a head that is tied to it, among modulesToSave, targetModules or tokens, got neither. ' +
          'It has no effect.',
      );
    }
    const copies = this.copiesOf(saved, adapterName, options.ensureWeightTying);

    const restore = rememberTraining(this.model.layers);
    freezeBase(this.model.layers);
    for (const {name, args} of plans) {
      const layer = before.get(name)!;
      const wrapped = () =>
        layer instanceof TokenEmbedding ? new LoRAEmbedding(layer) : layerClass.fromDense(layer);
      const adapted = isLowRank(layer) ? layer : replaceLayer(this.model, layer, wrapped() as LoRADense);
      if (name === tied?.head.name)
        (adapted as LoRADense).tieAdapter(
          this.layers().get(tied.embedding.name)!.adapter(adapterName) as LoRAAdapter,
          args,
        );
      else adapted.addAdapter(adapterName, args);
    }
    for (const [layer, copy] of copies) {
      const copied =
        layer instanceof CopiedLayer ? layer : replaceLayer(this.model, layer, new CopiedLayer(layer));
      copied.addCopy(copy);
    }
    for (const {layer, indices, tiedTo} of tokens) this.addTokens(adapterName, layer, indices, tiedTo);
    this.optionsByName.set(adapterName, {
      ...options,
      rank: commonSettings(options, fields).rank,
      targetModules,
      adapterName,
    });
    if (loadedFrom) this.filesByName.set(adapterName, loadedFrom);
    this.activate(adapterName);
    if (trainsBiases(bias) && this.trainedBiases(adapterName).size === 0)
      warn(`adapter "${adapterName}" bias ${bias}: the layers that it names have no biases, so none trains`);
    try {
      fill?.();
    } catch (error) {
      this.remove(adapterName, false);
      restore();
      throw error;
    }
  }

  /** Refuses a wrong name, and an adapter for a base that is not as it was. */
  private assertNewAdapter(adapterName: string): void {
    if (!/^[\w-]+$/.test(adapterName) || adapterName === BASE) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `adapter name "${adapterName}": expected letters, digits, _ or -, and not ${BASE}, which means no adapter`,
      );
    }
    if (this.optionsByName.has(adapterName)) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `adapter "${adapterName}": expected a new name, got one that exists. ` +
          `Call deleteAdapter("${adapterName}") first, or pass adapterName.`,
      );
    }
    if (this.isMerged) {
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

  /** Returns the biases of the base that an adapter trains, by their keys in its file. */
  trainedBiases(name: string): Map<string, Parameter> {
    const adapted = this.lowRank();
    const layers = layersWithTrainedBias(this.model.layers, name, this.options(name).bias);
    return new Map(
      layers.map((layer) => {
        const place = adapted.has(layer.name) ? '.base_layer' : '';
        return [`${PEFT_PREFIX}${layer.name}${place}.bias`, layer.bias!];
      }),
    );
  }

  /** Makes an adapter train, with the biases that belong to it, or freezes them. */
  setTrainable(name: string, trainable: boolean): void {
    for (const layer of this.layers().values()) {
      const adapter = layer.adapters.get(name);
      if (adapter) adapter.trainable = trainable;
    }
    trainBiasesOf(
      this.model.layers,
      trainable ? layersWithTrainedBias(this.model.layers, name, this.options(name).bias) : [],
    );
  }

  /** Copies layers for a new adapter. Nothing is kept if one cannot be copied. */
  private copiesOf(
    layers: ModuleLayer[],
    name: string,
    ensureWeightTying = false,
  ): [ModuleLayer, LayerCopy][] {
    const copies = new Map<ModuleLayer, LayerCopy>();
    const tied = ensureWeightTying ? this.tiedTo(layers) : undefined;
    try {
      for (const layer of layers)
        if (layer !== tied?.head) copies.set(layer, LayerCopy.of(name, originalOf(layer)));
    } catch (error) {
      for (const copy of copies.values()) copy.dispose();
      throw error;
    }
    if (tied)
      copies.set(tied.head, LayerCopy.tied(originalOf(tied.head) as TiedHead, copies.get(tied.embedding)!));
    return [...copies];
  }

  /** Returns the layers in which an adapter with such options trains rows of tokens. */
  private tokenPlans(options: LoRAOptions, taken: string[]): TokenPlan[] {
    const {lm_head, layers} = this.model;
    if (options.trainableTokenIndices && !lm_head)
      throw wrongOption(
        'trainableTokenIndices',
        'none for a Keras model',
        show(options.trainableTokenIndices),
      );
    const modules = modulesOf(layers);
    return tokenPlans(options, modules, lm_head?.name, this.tiedTo(modules), taken);
  }

  private addTokens(name: string, layer: ModuleLayer, indices: number[], tiedTo?: ModuleLayer): void {
    const embedding = tiedTo && (this.layers().get(tiedTo.name) as TokenRowsLayer);
    const base = originalOf(layer) as TokenEmbedding | TransposedDense;
    const wrapped =
      layer instanceof TokenRowsLayer
        ? layer
        : replaceLayer(this.model, layer, new TokenRowsLayer(base, embedding));
    wrapped.addRows(embedding?.adapter(name).tied() ?? TokenRows.of(name, layer.name, indices, base.weight));
  }

  /** Returns the tied head and its embedding, as they are in the model, if one of them is among the layers. */
  private tiedTo(layers: readonly ModuleLayer[]): {head: ModuleLayer; embedding: ModuleLayer} | undefined {
    const all = walk(this.model.layers).filter((layer) => layer instanceof ModuleLayer);
    const head = all.find((layer) => originalOf(layer) instanceof TiedHead);
    const table = head && (originalOf(head) as TiedHead).embedding;
    const embedding = all.find((layer) => originalOf(layer) === table);
    if (head && embedding && (layers.includes(head) || layers.includes(embedding))) return {head, embedding};
    return undefined;
  }

  activate(names: string | string[] | Record<string, number>): void {
    if (this.isMerged)
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
      [...weights.keys()].flatMap((name) =>
        layersWithTrainedBias(this.model.layers, name, this.options(name).bias),
      ),
    );
  }

  /** @param warns whether to say what stays of it in the base. Default true */
  remove(name: string, warns = true): void {
    this.assertKnown(name);
    this.unmerge(); // all layers, or some would keep their update
    const biases = layersWithTrainedBias(this.model.layers, name, this.options(name).bias);
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

  /** Runs `fn` while only the named adapters are active; their weights and what trains do not change. */
  with<R>(names: readonly string[], fn: () => R): R {
    for (const name of names) this.assertKnown(name);
    this.warnOfBiases(names);
    const weightOf = (layer: AdaptedLayer) => (name: string) =>
      [name, layer.adapters.get(name)?.weight ?? 1] as const;
    for (const layer of this.layers().values()) layer.assertActive(new Map(names.map(weightOf(layer))));
    const before = [...this.layers().values()].map((layer) => [layer, layer.activeAdapters] as const);
    const merged = this.isMerged;
    if (merged) this.unmerge();
    for (const [layer] of before) layer.activeAdapters = names.filter((name) => layer.adapters.has(name));
    const restore = () => {
      for (const [layer, active] of before) layer.activeAdapters = active;
      if (merged) this.merge({dequantize: true}); // as before: a quantized base can only be merged dequantized
    };
    let result: R;
    try {
      result = fn();
    } catch (error) {
      restore();
      throw error;
    }
    if (!(result instanceof Promise)) {
      restore();
      return result;
    }
    return result.finally(restore) as R;
  }

  /**
   * Prepares passes in which each row of a batch has its own adapter. The caller disposes the result.
   *
   * @param names the adapter of each row, or `__base__` for none
   * @throws TfjsLoraError `UNKNOWN_ADAPTER`; `INVALID_ARGUMENT` while adapters are merged
   */
  rows(names: readonly string[]): RowAdapters {
    for (const name of new Set(names)) if (name !== BASE) this.assertKnown(name);
    if (this.isMerged) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        'adapterNames: expected unmerged weights, which all rows share. Call unmergeLoRA() first.',
      );
    }
    const mixed = new Set(names).size > 1 ? [...this.layers().values()] : [];
    const whole = mixed.find((layer) => !layer.knowsRows && names.some((name) => layer.adapters.has(name)));
    if (whole) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `adapterNames: expected layers that can give each row its own adapter, got ${whole.name}, a ` +
          `${whole.constructor.name}, which cannot. Pass its rows in a batch of their own.`,
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

  get isMerged(): boolean {
    return [...this.layers().values()].some((layer) => layer.isMerged);
  }

  /** Merges the active adapters in all layers or in none. */
  merge(options: MergeAdaptersOptions = {}): void {
    assertKnownOptions('mergeLoRA', options, MERGE_ADAPTERS_OPTIONS);
    const {onProgress, signal, ...merging} = options;
    if (this.model.replication) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        'mergeLoRA: expected layers with weights of their own, got replicated ones, which share theirs: each update would ' +
          'go into all of them. Save the adapter instead; PEFT refuses this too.',
      );
    }
    if (this.active.length === 0) {
      throw new TfjsLoraError(
        'UNKNOWN_ADAPTER',
        'mergeLoRA: expected an active adapter, got none. Call applyLoRA or loadAdapter first.',
      );
    }
    try {
      const layers = [...this.layers()];
      for (const [index, [layer, adapted]] of layers.entries()) {
        signal?.throwIfAborted();
        adapted.merge(merging);
        onProgress?.({layer, done: index + 1, total: layers.length});
      }
      this.untie();
    } catch (error) {
      this.unmerge();
      throw error;
    }
  }

  unmerge(): void {
    for (const layer of this.layers().values()) layer.unmerge();
    if (!this.untied) return;
    const {tied, dense} = this.untied;
    replaceLayer(this.model, dense, tied);
    dense.disposeWeights();
    this.untied = undefined;
  }

  /** Gives a tied head its table from before the merge, if the merge changed the embedding alone. */
  private untie(): void {
    const merged = [...this.layers().values()].filter(({isMerged}) => isMerged);
    for (const tied of walk(this.model.layers)) {
      if (!(tied instanceof TiedHead) || !merged.some(({original}) => original === tied.embedding)) continue;
      this.untied = {tied, dense: replaceLayer(this.model, tied, tied.untied())};
    }
  }

  fuse(options?: MergeAdaptersOptions): void {
    this.merge(options);
    this.untied = undefined; // the head keeps its own table
    trainBiasesOf(this.model.layers, []);
    for (const layer of this.layers().values()) replaceLayer(this.model, layer, layer.fuse());
    for (const names of [this.optionsByName, this.filesByName, this.initializedByName]) names.clear();
    this.baseChangedBy = undefined; // what was taken from the base is in it again
  }

  /**
   * Returns a function from a weight's name to its key in a file. Adapters' keys are as PEFT writes them, with the
   * adapter's name only when several train together; other names do not change.
   */
  fileKeys(): (name: string) => string {
    const showsAdapter = this.names.length > 1 && this.active.length > 1;
    const keys = new Map<string, string>();
    for (const [layerName, layer] of this.layers()) {
      for (const adapter of layer.adapters.values()) {
        for (const key of adapter.parameters.keys()) {
          const placed = adapter.placedKey(key);
          keys.set(`${layerName}.${placed}`, `${PEFT_PREFIX}${layerName}.${showsAdapter ? placed : key}`);
        }
      }
    }
    return (name) => keys.get(name) ?? name;
  }

  private assertKnown(name: string): void {
    if (this.optionsByName.has(name)) return;
    const nearest = nearestNames(name, this.names, 5).join(', ');
    throw new TfjsLoraError(
      'UNKNOWN_ADAPTER',
      `adapter ${show(name)}: expected one of ${nearest || '(none was added)'}`,
    );
  }

  /** Returns the layers that a target may name, adapted or not. */
  private adaptable(): Map<string, Adaptable> {
    const found = new Map<string, Adaptable>();
    for (const layer of walk(this.model.layers)) {
      const isBase = layer instanceof TransposedDense || layer instanceof TokenEmbedding;
      if (isLowRank(layer) || (isBase && !found.has(layer.name))) found.set(layer.name, layer);
    }
    return found;
  }

  private candidates(): TargetCandidates {
    const refused = new Map(this.model.refused);
    for (const [name, layer] of this.layers())
      if (!isLowRank(layer))
        refused.set(name, `adapter "${[...layer.adapters.keys()][0]}" trains it whole or in part`);
    const names = [...this.adaptable()].filter(([name]) => !refused.has(name));
    const isEmbedding = ([, layer]: [string, Adaptable]) => originalOf(layer) instanceof TokenEmbedding;
    return {
      linear: names.filter((entry) => !isEmbedding(entry)).map(([name]) => name),
      embeddings: names.filter(isEmbedding).map(([name]) => name),
      head: this.model.lm_head?.name,
      refused,
    };
  }
}

/** A layer that can have low-rank adapters, or has them. */
type Adaptable = TransposedDense | TokenEmbedding | LoRADense | LoRAEmbedding;

const isLowRank = (layer: tf.layers.Layer): layer is LoRADense | LoRAEmbedding =>
  layer instanceof LoRADense || layer instanceof LoRAEmbedding;

/** Refuses adapters of a class of their own for an embedding. */
function assertFitsEmbedding(name: string, {adapterClass}: LoRADenseClass): void {
  if (adapterClass.peftType === LoRAAdapter.peftType) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `LoRA target ${name}: expected a linear layer for adapters of ${adapterClass.peftType}, got an embedding`,
  );
}

function wrongOption(what: string, expected: string, got: string): TfjsLoraError {
  return new TfjsLoraError('INVALID_ARGUMENT', `LoRA ${what}: expected ${expected}, got ${got}`);
}

/** Returns a layer itself, or the one that it adapts. */
const originalOf = (layer: ModuleLayer): ModuleLayer =>
  layer instanceof AdaptedLayer ? layer.original : layer;

/**
 * Refuses an adapter for a layer whose adapters are of another kind.
 *
 * @param wanted the layer class that was asked for. Default: any whose adapters are LoRA's
 */
function assertSameKind(adapterName: string, layer: LoRADense, wanted: LoRADenseClass | undefined): void {
  const {adapterClass, name: className} = wanted ?? LoRADense;
  const isKind = layer.adapterClass.peftType === adapterClass.peftType;
  if (isKind && (wanted === undefined || layer instanceof wanted)) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `adapter "${adapterName}" of ${layer.name}: expected a layer without adapters or a ${className}, got a ` +
      `${layer.constructor.name} with ${[...layer.adapters.keys()].join(', ')}. Delete these adapters first.`,
  );
}

import {readFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import ts from 'typescript';
import * as layers from '../../layers/index.ts';
import * as models from '../../models/index.ts';
import * as quant from '../../quant/index.ts';
import * as data from '../../src/data/index.ts';
import * as src from '../../src/index.ts';
import * as browser from '../../src/tools/browser/index.ts';
import * as chat from '../../src/tools/chat/index.ts';
import * as evaluation from '../../src/tools/evaluation/index.ts';
import * as recipes from '../../src/tools/recipes/index.ts';
import * as serve from '../../src/tools/serve/index.ts';
import * as metrics from '../../src/training/metrics/index.ts';
import * as notebook from '../../src/training/notebook/index.ts';
import * as optimizers from '../../src/training/optimizers/index.ts';
import * as plots from '../../src/training/plots/index.ts';
import {compilerOptions} from '../../tsconfig.json';
import {tinyConfig} from '../models/tinyLlama.ts';

/** Calls that take options, each with ones it does not have. */
type Call = (unknown: object) => unknown;

const ROOT = join(__dirname, '../..');
const MODEL = join(ROOT, 'examples/quickstart/model');
const UNKNOWN = {nonsense: 1};
const IDS = [[1, 2, 3]];
const BATCH = {inputIds: IDS, labels: IDS};
const VALUES = new Float32Array(64);

let model: src.Llama;
let tokenizer: src.Tokenizer;
beforeAll(async () => {
  await tf.setBackend('cpu');
  model = src.Llama.fromConfig({...tinyConfig}, {seed: 1});
  model.applyLoRA({rank: 2});
  tokenizer = await src.Tokenizer.fromFolder(MODEL);
  model.tokenizer = tokenizer;
});
afterAll(() => model.dispose());

const dense = () => {
  const layer = new layers.TransposedDense({units: 4, name: 'base'});
  layer.build([null, 4]);
  return layer;
};
const keras = () => tf.sequential({layers: [tf.layers.dense({units: 4, inputShape: [4], name: 'fc'})]});
const adapted = () => src.applyLoRA(keras(), {rank: 2});
const scale = () => new layers.Parameter({name: 'scale', shape: [1]});
const lora = () => layers.LoRADense.fromDense(dense(), {rank: 2});
const examples = [{inputIds: [1, 2, 3]}];
const history = {training: [{step: 1, loss: 1}]};
const recipe = {} as recipes.Recipe; // refused before it is read
const dataset = (unknown: object) => ({dataset: 'x', tokenizer, ...unknown});

const calls: Record<string, Call> = {
  // layers
  'TransposedDense.constructor': (unknown) => new layers.TransposedDense({units: 4, ...unknown}),
  'AdaptedLayer.merge': (unknown) => lora().merge(unknown),
  'AdaptedLayer.fuse': (unknown) => lora().fuse(unknown),
  'LoRADense.tieAdapter': (unknown) =>
    lora().tieAdapter(lora().addAdapter('tied', {rank: 2}), {rank: 2, ...unknown}),
  'LoRADense.constructor': (unknown) => new layers.LoRADense({units: 4, rank: 2, ...unknown}),
  'LoRADense.fromDense': (unknown) => layers.LoRADense.fromDense(dense(), {rank: 2, ...unknown}),
  'LoRADense.addAdapter': (unknown) => lora().addAdapter('other', {rank: 2, ...unknown}),
  'LoRADense.merge': (unknown) => lora().merge(unknown),
  'LoRADense.fuse': (unknown) => lora().fuse(unknown),
  'LoRAAdapter.constructor': (unknown) =>
    new layers.LoRAAdapter('a', 'layer', [4, 4], {rank: 2, ...unknown}, () => tf.zeros([4])),
  'QuantizedDense.constructor': (unknown) =>
    new layers.QuantizedDense({units: 4, quantization: {type: 'nf4'}, ...unknown}),
  'QuantizedDense.fromDense': (unknown) =>
    layers.QuantizedDense.fromDense(dense(), {type: 'nf4', ...unknown}),
  'QuantizedDense.like': (unknown) => layers.QuantizedDense.like(dense(), {type: 'int8', ...unknown}),
  'GroupedQueryAttention.constructor': (unknown) =>
    new layers.GroupedQueryAttention({heads: 2, headDim: 4, ...unknown}),
  'RMSNorm.constructor': (unknown) => new layers.RMSNorm(unknown),
  'RotaryEmbedding.constructor': (unknown) => new layers.RotaryEmbedding({headDim: 4, ...unknown}),
  'SwiGLU.constructor': (unknown) => new layers.SwiGLU({intermediateSize: 4, ...unknown}),
  'TiedHead.constructor': (unknown) => new layers.TiedHead({embedding: model.embed_tokens, ...unknown}),
  'TokenEmbedding.constructor': (unknown) =>
    new layers.TokenEmbedding({vocabSize: 4, hiddenSize: 4, ...unknown}),
  'ValueHead.constructor': (unknown) => new layers.ValueHead(unknown),
  'DecoderBlock.constructor': (unknown) =>
    new models.DecoderBlock({config: model.config, layerIndex: 0, ...unknown}),

  // models
  'CausalLM.resizeVocab': (unknown) => src.Llama.fromConfig(tinyConfig).resizeVocab(20, unknown),
  'CausalLM.addTokens': (unknown) => model.addTokens(['<a>'], unknown),
  'Tokenizer.withTokens': (unknown) => tokenizer.withTokens(['<a>'], unknown),
  'CausalLM.fromConfig': (unknown) => src.Llama.fromConfig(tinyConfig, unknown),
  'CausalLM.fromPretrained': (unknown) => src.Llama.fromPretrained(MODEL, unknown),
  applyLoRA: (unknown) => src.applyLoRA(keras(), {rank: 2, ...unknown}),
  mergeLoRA: (unknown) => src.mergeLoRA(adapted(), unknown),
  saveAdapter: (unknown) => src.saveAdapter(adapted(), new Map(), unknown),
  loadAdapter: (unknown) => src.loadAdapter(keras(), MODEL, unknown),
  quantize: (unknown) => src.quantize(keras(), {type: 'nf4', ...unknown}),
  'AdaptableModel.quantize': (unknown) => model.quantize({type: 'nf4', ...unknown}),
  'CausalLM.predict': (unknown) => model.predict(IDS, unknown),
  'CausalLM.lossSum': (unknown) => model.lossSum(BATCH, unknown),
  'CausalLM.tokenLosses': (unknown) => model.tokenLosses(BATCH, unknown),
  'CausalLM.addValueHead': (unknown) => model.addValueHead(unknown),
  'CausalLM.loadValueHead': (unknown) => model.loadValueHead(MODEL, unknown),
  'CausalLM.values': (unknown) => model.values(BATCH, unknown),
  readValueHead: (unknown) => models.readValueHead(MODEL, 8, unknown),
  'CausalLM.generate': (unknown) => model.generate(IDS, unknown),
  'CausalLM.stream': (unknown) => model.stream([1, 2], unknown).next(),
  'CausalLM.chat': (unknown) => model.chat([{role: 'user', content: 'x'}], unknown),
  'AdaptableModel.applyLoRA': (unknown) => model.applyLoRA({adapterName: 'other', ...unknown}),
  'AdaptableModel.mergeLoRA': (unknown) => model.mergeLoRA(unknown),
  'AdaptableModel.fuseLoRA': (unknown) => model.fuseLoRA(unknown),
  'AdaptableModel.initializeLoRA': (unknown) => model.initializeLoRA({method: 'olora', ...unknown}),
  'AdaptableModel.saveAdapter': (unknown) => model.saveAdapter(new Map(), 'default', unknown),
  'AdaptableModel.combineAdapters': (unknown) =>
    model.combineAdapters({default: 1}, {adapterName: 'new', ...unknown}),
  'AdaptableModel.hotswapAdapter': (unknown) => model.hotswapAdapter(MODEL, unknown),
  'AdaptableModel.prepareHotswap': (unknown) => model.prepareHotswap({targetRank: 4, ...unknown}),
  'AdaptableModel.loadAdapter': (unknown) => model.loadAdapter(MODEL, unknown),
  'CausalLM.save': (unknown) => model.save(new Map(), unknown),
  'CausalLM.saveGguf': (unknown) => model.saveGguf(new Map(), unknown),
  'CausalLM.saveAdapterGguf': (unknown) => model.saveAdapterGguf(new Map(), unknown),
  'Parameter.load': (unknown) => scale().load(new Uint8Array(4), 'F32', unknown),
  'Parameter.decode': (unknown) => scale().decode(new Uint8Array(4), 'F32', unknown),
  'QuantizedParameter.load': (unknown) =>
    new layers.QuantizedParameter('scale', [1, 1], {type: 'nf4'}).load(new Uint8Array(4), 'F32', unknown),
  'LlamaForCausalLM.forward': (unknown) => model.forward(tf.tensor2d(IDS, [1, 3], 'int32'), unknown),
  chat: (unknown) => models.chat(model, [{role: 'user', content: 'x'}], unknown),
  joinCluster: (unknown) => src.joinCluster(unknown),
  generate: (unknown) => models.generate(model, IDS, unknown),
  generateIds: (unknown) => models.generateIds(model, IDS, unknown),
  stream: (unknown) => models.stream(model, [1], unknown).next(),
  streamTokens: (unknown) => models.streamTokens(model, [1], unknown).next(),
  'Tokenizer.assertFits': (unknown) => tokenizer.assertFits(1e6, unknown),
  'Tokenizer.encode': (unknown) => tokenizer.encode('x', unknown),
  'Tokenizer.decode': (unknown) => tokenizer.decode([1], unknown),
  'Tokenizer.applyChatTemplate': (unknown) =>
    tokenizer.applyChatTemplate([{role: 'user', content: 'x'}], unknown),
  'Tokenizer.encodeChat': (unknown) => tokenizer.encodeChat([{role: 'user', content: 'x'}], unknown),

  // quant
  quantizeAbsmax: (unknown) => quant.quantizeAbsmax(VALUES, unknown),
  quantizeBlockwise: (unknown) => quant.quantizeBlockwise(VALUES, unknown),
  dequantizeBlockwise: (unknown) =>
    quant.dequantizeBlockwise({codes: new Uint8Array(64), absmax: new Float32Array(1)}, unknown),
  quantizeNF4: (unknown) => quant.quantizeNF4(VALUES, [8, 8], unknown),
  quantizeFP4: (unknown) => quant.quantizeFP4(VALUES, [8, 8], unknown),
  quantizeInt8: (unknown) => quant.quantizeInt8(VALUES, [8, 8], unknown),
  writeShardedSafetensors: (unknown) => quant.writeShardedSafetensors('nowhere', [], unknown),

  // training
  'AutoModelForCausalLM.fromPretrained': (unknown) => src.AutoModelForCausalLM.fromPretrained(MODEL, unknown),
  labelLoss: (unknown) => src.labelLoss({type: 'dft', ...unknown}),
  ktoLoss: (unknown) => src.ktoLoss(unknown),
  preferenceLoss: (unknown) => src.preferenceLoss(unknown),
  ppoLoss: (unknown) => src.ppoLoss({rewards: () => [], ...unknown}),
  grpoLoss: (unknown) => src.grpoLoss({rewards: () => [], ...unknown}),
  'Training.compile': (unknown) => model.compile(unknown),
  'Training.dataset': (unknown) => model.dataset([{text: 'x'}], unknown),
  'Training.fitDataset': (unknown) => model.fitDataset(examples, {verbose: 0, ...unknown}),
  'Training.evaluateDataset': (unknown) => model.evaluateDataset(examples, unknown),
  'Training.predictDataset': (unknown) => model.predictDataset(examples, unknown),
  'Training.score': (unknown) => model.score(examples, unknown),
  'Training.computeGradients': (unknown) => model.computeGradients(BATCH, unknown),
  'Trainer.fit': (unknown) => model.trainer.fit(examples, unknown),
  'Trainer.check': (unknown) => model.trainer.check(examples, unknown),
  'Trainer.evaluate': (unknown) => model.trainer.evaluate(examples, unknown),
  'TrainingStep.compile': (unknown) => model.trainer.compile(unknown),
  'TrainingStep.computeGradients': (unknown) => model.trainer.computeGradients(BATCH, unknown),
  learningRateSchedule: (unknown) => src.learningRateSchedule('linear', {totalSteps: 2, ...unknown}),
  estimateMemory: (unknown) => src.estimateMemory(model, {batchSize: 1, sequenceLength: 8, ...unknown}),
  'AdEMAMix.constructor': (unknown) => new optimizers.AdEMAMix(unknown),
  'Adafactor.constructor': (unknown) => new optimizers.Adafactor(unknown),
  'Muon.constructor': (unknown) => new optimizers.Muon(unknown),
  'PagedAdEMAMix.constructor': (unknown) => new optimizers.PagedAdEMAMix(unknown),
  'AdamW.constructor': (unknown) => new src.AdamW(unknown),
  'AdamW8bit.constructor': (unknown) => new src.AdamW8bit(unknown),
  'Lion.constructor': (unknown) => new src.Lion(unknown),
  'Lion8bit.constructor': (unknown) => new src.Lion8bit(unknown),
  'PagedAdamW.constructor': (unknown) => new src.PagedAdamW(unknown),
  'PagedAdamW8bit.constructor': (unknown) => new src.PagedAdamW8bit(unknown),
  'PagedLion.constructor': (unknown) => new src.PagedLion(unknown),
  'PagedLion8bit.constructor': (unknown) => new src.PagedLion8bit(unknown),
  optimizerByName: (unknown) => src.optimizerByName('adamw', unknown),

  // around it
  useBackend: (unknown) => src.useBackend('cpu', unknown),
  'ChatSession.constructor': (unknown) => new chat.ChatSession(model, unknown),
  'ChatSession.send': (unknown) => new chat.ChatSession(model).send('x', unknown).next(),
  collate: (unknown) => src.collate(examples, unknown),
  loadDataset: (unknown) => src.loadDataset(dataset(unknown)),
  loadPrompts: (unknown) => data.loadPrompts(dataset(unknown)),
  loadSplits: (unknown) => src.loadSplits(dataset(unknown)),
  registerTemplate: (unknown) => data.registerTemplate('mine', unknown),
  resolveTemplate: (unknown) => data.resolveTemplate('llama3', tokenizer, unknown),
  compareModels: (unknown) =>
    evaluation.compareModels([evaluation.parseCandidate('base')], {
      open: () => Promise.resolve(model),
      prompts: [],
      ...unknown,
    }),
  predictDataset: (unknown) => evaluation.predictDataset(model, [], unknown),
  resolveModelFolder: (unknown) => data.resolveModelFolder(MODEL, unknown),
  rouge: (unknown) => metrics.rouge('a', 'a', unknown),
  meanRouge: (unknown) => metrics.meanRouge(['a'], ['a'], unknown),
  plotComparison: (unknown) => plots.plotComparison([], undefined, unknown),
  plotLosses: (unknown) => plots.plotLosses([{label: 'a', training: history.training}], undefined, unknown),
  plotLoss: (unknown) => plots.plotLoss(history, undefined, unknown),
  showLoss: (unknown) => notebook.showLoss(history, unknown),
  showSamples: (unknown) => notebook.showSamples({a: ['x']}, unknown),
  showTable: (unknown) => notebook.showTable([{a: 1}], unknown),
  showTokens: (unknown) => notebook.showTokens(examples[0], tokenizer, unknown),
  planRecipe: (unknown) => recipes.planRecipe(recipe, unknown),
  trainRecipe: (unknown) => recipes.trainRecipe(recipe, unknown),
  evaluateRecipe: (unknown) => recipes.evaluateRecipe(recipe, unknown),
  benchmarkRecipe: (unknown) => recipes.benchmarkRecipe(recipe, unknown),
  scoreBenchmark: (unknown) => evaluation.scoreBenchmark(model, [], unknown),
  compareRecipe: (unknown) => recipes.compareRecipe(recipe, [], unknown),
  exportModel: (unknown) => recipes.exportModel({model: MODEL, exportDir: 'nowhere', ...unknown}),
  serveModel: (unknown) => serve.serveModel(model, {port: 0, ...unknown}),
  'CachedFolder.constructor': (unknown) => new browser.CachedFolder('http://host', {} as never, unknown),
  'TaskWorker.run': (unknown) => {
    const worker = {postMessage() {}, addEventListener() {}, terminate() {}};
    return new browser.TaskWorker<Record<string, browser.Task>>(worker as never).run(
      'x',
      {} as never,
      unknown,
    );
  },
};

/** Calls whose options are not checked, each with the reason. */
const unchecked: Record<string, string> = {
  'TfjsLoraError.constructor': "JavaScript's own ErrorOptions",
  'LoRADense.call': "Keras's keyword arguments, of every layer alike",
  'ValueHead.call': "Keras's keyword arguments, of every layer alike",
  'SwiGLU.call': "Keras's keyword arguments, of every layer alike",
  'CausalLM.call': "Keras's keyword arguments, checked by forward",
  'CausalLM.forward': 'abstract',
  'LlamaForCausalLM.resolveConfig': 'a config keeps the keys of its file that nobody reads',
  'DecoupledDecayOptimizer.constructor': 'abstract: its subclasses are checked',
  'ModuleLayer.constructor': 'abstract: its subclasses are checked',
  'Parameter.constructor': 'made by layers, whose own arguments are checked',
  'QuantizedParameter.constructor': 'made by layers, whose own arguments are checked',
  formatPeftConfig: 'writes what applyLoRA or loadAdapter has checked',
  matchTargets: 'called with the options of applyLoRA, which has checked them',
  'StorageFolder.writeShards': 'called by save, which has checked its own options',
  modelChatEncoder: 'takes a model',
  adamWUpdate: 'an op, called by the optimizers',
  adamWUpdates: 'an op, called by the optimizers',
  adamW8bitUpdate: 'an op, called by the optimizers',
  lionUpdate: 'an op, called by the optimizers',
  lion8bitUpdate: 'an op, called by the optimizers',
  attention: 'an op, called by the layers',
  decodeAttention: 'an op, called by the layers',
  'KeyValueCache.attend': 'called by the layers, with the options of their own constructor',
  windowOf: 'takes a config',
  gradientCheckpoint: 'an op, called by the models',
};

/** Whether a parameter of such a type takes options. */
const takesOptions = (type: string): boolean =>
  /(Options|Args|Settings)\b/.test(type) || /^(\{|Pick<)/.test(type);

const parse = (file: string): ts.SourceFile =>
  ts.createSourceFile(file, readFileSync(join(ROOT, file), 'utf8'), ts.ScriptTarget.Latest, true);

/** Interfaces whose methods a mixin gives to classes. */
const MIXINS = new Set(['Training']);

/** Classes, interfaces and constant objects that a statement declares, with their members. */
function memberLists(statement: ts.Statement): [name: string, members: readonly ts.Declaration[]][] {
  if (ts.isClassDeclaration(statement) || ts.isInterfaceDeclaration(statement))
    return [[statement.name?.text ?? '', [...statement.members]]];
  if (!ts.isVariableStatement(statement)) return [];
  return statement.declarationList.declarations.flatMap(({name, initializer}) =>
    initializer && ts.isObjectLiteralExpression(initializer)
      ? [[name.getText(), [...initializer.properties]] as [string, readonly ts.Declaration[]]]
      : [],
  );
}

/** Names of all exported functions and of all public methods of exported classes that take options. */
function callsWithOptions(): string[] {
  const found = new Set<string>();
  const add = (name: string, parameters: readonly ts.ParameterDeclaration[]) => {
    if (parameters.some(({type}) => takesOptions(type?.getText() ?? ''))) found.add(name);
  };
  for (const index of ['src/browser.ts', ...Object.values(compilerOptions.paths).flat()]) {
    for (const statement of parse(index).statements) {
      if (!ts.isExportDeclaration(statement) || statement.isTypeOnly || !statement.moduleSpecifier) continue;
      if (!statement.exportClause) continue; // of an index that is read itself
      const path = (statement.moduleSpecifier as ts.StringLiteral).text;
      const names = new Set(
        (statement.exportClause as ts.NamedExports).elements
          .filter(({isTypeOnly, name}) => !isTypeOnly || MIXINS.has(name.text))
          .map(({name, propertyName}) => (propertyName ?? name).text),
      );
      for (const declaration of parse(join(dirname(index), path)).statements) {
        if (ts.isFunctionDeclaration(declaration) && names.has(declaration.name?.text ?? ''))
          add(declaration.name?.text ?? '', declaration.parameters);
        for (const [name, members] of memberLists(declaration)) {
          if (!names.has(name)) continue;
          for (const member of members) {
            const isHidden =
              ts.getCombinedModifierFlags(member) & (ts.ModifierFlags.Private | ts.ModifierFlags.Protected);
            if (isHidden || !('parameters' in member)) continue;
            const method = (member as ts.NamedDeclaration).name?.getText() ?? 'constructor';
            add(`${name}.${method}`, member.parameters as ts.NodeArray<ts.ParameterDeclaration>);
          }
        }
      }
    }
  }
  return [...found];
}

test('every public call that takes options is in one of the lists above', () => {
  const listed = [...Object.keys(calls), ...Object.keys(unchecked)];
  expect(callsWithOptions().sort()).toEqual(listed.sort());
});

test.each(Object.entries(calls))('%s refuses an option that it does not have', async (_, call) => {
  const before = tf.getBackend();
  await expect((async () => call(UNKNOWN))()).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringMatching(/nonsense: expected .*, got an option that .* does not have\. ./s),
  });
  expect(tf.getBackend()).toBe(before);
});

test.each([
  [
    'quantization',
    () => src.Llama.fromPretrained(MODEL, {quantization: {type: 'nf4', search: 'table'}}),
    'absmaxSearch',
  ],
  [
    'quantization in the words of bitsandbytes',
    () => model.quantize({bnb_4bit_quant_type: 'nf4'} as never),
    'Use type.',
  ],
  ['quantization by a number', () => model.quantize(4 as never), "got 4. Pass {type: 'nf4'}"],
  ['dtype', () => src.Llama.fromPretrained(MODEL, {dtype: 'bf16' as never}), "Did you mean 'bfloat16'?"],
  [
    'storage',
    () =>
      tf.sequential({
        layers: [new layers.TransposedDense({units: 4, storage: 'half' as never, inputShape: [4]})],
      }),
    "Did you mean 'float16'?",
  ],
  ['a learning rate alone', () => new src.AdamW(1e-3 as never), 'got a number'],
  [
    'an optimizer class',
    () => model.compile({optimizer: src.AdamW as never}),
    'Pass an optimizer that is made',
  ],
  [
    'a config',
    () => src.Llama.fromConfig({...tinyConfig, hiddenSzie: 8} as never),
    'Did you mean hiddenSize?',
  ],
  [
    'a config in the words of transformers',
    () => src.Llama.fromConfig({...tinyConfig, rope_theta: 8} as never),
    'Use ropeTheta.',
  ],
  [
    'a size',
    () => src.estimateMemory(model, {batchSize: 4} as never),
    'sequenceLength: expected a positive integer',
  ],
  ['a backend', () => src.useBackend('cuda' as never), 'A graphics card is used by webgpu'],
  [
    'schedule',
    () => model.compile({schedule: {name: 'linear', num_warmup_steps: 3} as never}),
    'Use warmupSteps.',
  ],
  ['hub', () => src.loadDataset(dataset({hub: {cache_dir: 'x'}})), 'Use cacheDir.'],
  [
    'callbacks',
    () => model.fitDataset(examples, {verbose: 0, callbacks: {onEpochEnded() {}} as never}),
    'onEpochEnd?',
  ],
  ['threshold', () => model.quantize({type: 'nf4', threshold: 6}), 'expected only with type int8'],
  [
    'doubleQuant',
    () => model.quantize({type: 'int8', doubleQuant: true}),
    'expected only with type nf4 or fp4',
  ],
  [
    'skipModules',
    () => model.quantize({type: 'nf4', skipModules: 'lm_head' as never}),
    'expected a list of names',
  ],
  [
    'absmaxSearch',
    () => model.quantize({type: 'nf4', doubleQuant: true, absmaxSearch: 'fast' as never}),
    "'nearest'",
  ],
])('options inside options: %s', async (_, call, message) => {
  await expect((async () => call())()).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringContaining(message),
  });
});

test.each<[string, () => unknown, string]>([
  ['an unknown report', () => model.fitDataset(examples, {reportTo: 'wandb' as never}), 'got "wandb".'],
  ['a type of llama.cpp', () => model.saveGguf('nowhere', {type: 'Q4_K_M' as never}), 'Did you mean q4_k_m?'],
  [
    'records to initialize from',
    () => model.initializeLoRA({method: 'eva', batches: [{prompt: 'a', completion: 'b'}] as never}),
    'collate((await model.dataset(records)).examples)',
  ],
  ['an optimizer', () => model.compile(new src.AdamW({}) as never), 'Use compile({optimizer}).'],
  [
    'an adapter',
    () => model.applyLoRA({rank: 2}, ...(['mine'] as unknown as [])),
    "An adapter's name is adapterName.",
  ],
  [
    'no data',
    () => src.loadDataset(...([] as unknown as [never])),
    'an object such as {dataset: …}, got none',
  ],
  [
    'no sizes',
    () => src.estimateMemory(model, ...([] as unknown as [never])),
    'an object such as {batchSize: …}, got none',
  ],
  [
    'no rewards',
    () => src.grpoLoss(...([] as unknown as [never])),
    'an object such as {rewards: …}, got none',
  ],
  [
    'a file of a tokenizer',
    () => src.Tokenizer.fromFolder(join(MODEL, 'tokenizer.json')),
    `the folder, ${MODEL}.`,
  ],
  [
    'a tensor',
    () => tokenizer.decode(tf.tensor1d([1], 'int32') as never),
    'got tensor [1] of int32. Read a tensor',
  ],
  ['several lists', () => tokenizer.decode([[1], [2]] as never), 'got [1]. Decode one list at a time.'],
  [
    'a recipe by its path',
    () => recipes.trainRecipe('r.yaml' as never),
    "Pass await loadRecipe('recipe.yaml').",
  ],
  ['overrides as an object', () => recipes.loadRecipe('r.yaml', {a: 1} as never), "['lora_rank=16']"],
  [
    'a single text',
    () => metrics.meanRouge('a' as never, 'b' as never),
    'got "a". Put a single text into a list',
  ],
  [
    'lists of references',
    () => metrics.corpusBleu(['a'], [['b']] as never),
    'each prediction has one reference.',
  ],
  [
    'a reference that is missing',
    () => metrics.corpusBleu(['a'], [undefined] as never),
    'references: expected a list of texts',
  ],
  [
    'samples that are missing',
    () => notebook.showSamples({answer: undefined} as never),
    'expected lists of texts by label',
  ],
  ['lists to one rouge', () => metrics.rouge(['a'] as never, ['b'] as never), 'meanRouge takes lists.'],
  ['a session with a path', () => new chat.ChatSession(MODEL as never), 'await Llama.fromPretrained(folder)'],
  [
    'a template of texts',
    () => data.registerTemplate('t', {user: '{{content}}'} as never),
    'expected a slot with',
  ],
  [
    'a boolean as text',
    () => model.fitDataset(examples, {shuffle: 'false'} as never),
    'Write it without quotes.',
  ],
  [
    'packing as text',
    () => model.dataset([{text: 'x'}], {packing: 'false'} as never),
    'Write it without quotes.',
  ],
  [
    'a controller',
    () => model.fitDataset(examples, {signal: new AbortController()} as never),
    'controller.signal.',
  ],
  [
    'a seed as text',
    () => model.fitDataset(examples, {seed: '0'} as never),
    'seed: expected a number, got "0"',
  ],
  [
    'a number as text',
    () => model.applyLoRA({adapterName: 'b', dropout: '0.1'} as never),
    'dropout: expected a number',
  ],
  [
    'a target that is true',
    () => model.applyLoRA({adapterName: 'b', targetModules: true} as never),
    'names or a pattern',
  ],
  [
    'a module as text',
    () => model.applyLoRA({adapterName: 'b', modulesToSave: 'norm'} as never),
    'a list of names',
  ],
  ['a norm as text', () => model.compile({maxGradNorm: '1'} as never), 'a number above 0, got "1"'],
  ['a share as text', () => src.splitValidation([1, 2], '0.5' as never), 'got "0.5"'],
  [
    'a share of the data',
    () => model.fitDataset(examples, {validationData: 0.1} as never),
    'splitValidation(examples, 0.1)',
  ],
  [
    'undecayed weights as text',
    () => new src.AdamW({excludeFromWeightDecay: 'norm'} as never),
    'expected a list, got',
  ],
  [
    'an output folder that is true',
    () => model.fitDataset(examples, {outputDir: true} as never),
    'expected a path or a',
  ],
  ['no config', () => src.Llama.fromConfig(...([] as unknown as [never])), 'fromPretrained opens a folder.'],
  ['a path', () => new src.Llama(MODEL as never), 'await Llama.fromPretrained(folder)'],
  [
    'nothing',
    () => new (src.Qwen2 as new (config?: unknown) => unknown)(),
    'await Qwen2.fromPretrained(folder)',
  ],
  ['a tokenizer', () => new src.Tokenizer(MODEL as never), 'await Tokenizer.fromFolder(folder)'],
  [
    'a name',
    () => src.Llama.fromPretrained('org/Name'),
    'npx tfjs-lora download org/Name Name. Then pass its',
  ],
  [
    'a file',
    () => src.Llama.fromPretrained(join(MODEL, 'config.json')),
    `Pass the folder of the model, ${MODEL}.`,
  ],
])('calls of other libraries: %s', async (_, call, message) => {
  await expect((async () => call())()).rejects.toMatchObject({
    name: 'TfjsLoraError',
    message: expect.stringContaining(message),
  });
});

test('applyLoRA refuses a value that is no object of options', () => {
  for (const wrong of [8, 'q_proj', [8]])
    expect(() => model.applyLoRA(wrong as never)).toThrow('applyLoRA options: expected an object');
});

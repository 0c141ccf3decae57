const {mkdtempSync, rmSync, writeFileSync} = require('node:fs');
const {tmpdir} = require('node:os');
const {join} = require('node:path');
const tf = require('@tensorflow/tfjs');

/** Uses each subpath of the installed package and returns plain values for the test to compare. */
exports.report = async function report(subpaths) {
  const {root, models, layers, quant} = subpaths;
  const uses = {
    shared: () => sharedClasses(subpaths),
    around: () => around(subpaths),
    missing: () => root.useBackend('tensorflow').catch(({code, message}) => ({code, message})),
    backend: async () => (await root.useBackend('wasm', {threads: 2})).backend,
    safetensors: () => inFolder((folder) => safetensorsRoundTrip(quant, folder)),
    error: () => errorOf(quant),
    counts: () => counts(root, models),
    model: () => inFolder((folder) => fineTune(root, folder)),
    layer: () => layerAlone(layers),
    data: () => inFolder((folder) => loadData(root, models, folder)),
  };
  const results = {};
  for (const [name, use] of Object.entries(uses)) {
    try {
      results[name] = await use();
    } catch (error) {
      results[name] = error.stack; // fails only the tests of this use, with the error
    }
  }
  return results;
};

/** For each class or function that two subpaths export under the same name: whether they are the same object. */
function sharedClasses(subpaths) {
  const owners = new Map();
  const different = [];
  const shared = [];
  for (const exported of Object.values(subpaths)) {
    for (const [name, value] of Object.entries(exported)) {
      if (typeof value !== 'function') continue;
      if (owners.has(name)) (owners.get(name) === value ? shared : different).push(name);
      owners.set(name, value);
    }
  }
  return {shared, different};
}

/** Makes one call of each subpath other than the root. */
async function around({
  data,
  optimizers,
  plots,
  notebook,
  metrics,
  evaluation,
  chat,
  serve,
  browser,
  recipes,
}) {
  const plot = await plots.plotLoss({training: [{step: 1, loss: 1}]});
  const optimizer = new optimizers.AdamW();
  const isNamed = optimizer instanceof optimizers.NamedStateOptimizer;
  optimizer.dispose();
  return {
    isNamed,
    plot: plot.slice(0, 4),
    table: notebook.showTable([{a: 1}]).text,
    rouge: metrics.rouge('a b', 'a b').rouge1.fmeasure,
    templates: data.templateNames().includes('llama3'),
    label: evaluation.parseCandidate('base').label,
    calls: [chat.ChatSession, serve.serveModel, browser.serveTasks, recipes.trainRecipe].map(
      (call) => typeof call,
    ),
    recipe: await recipes.loadRecipe('none.yaml').catch(({code}) => code),
  };
}

async function inFolder(use) {
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-consumer-'));
  try {
    return await use(folder);
  } finally {
    rmSync(folder, {recursive: true});
  }
}

async function safetensorsRoundTrip(
  {float32ToBfloat16, SafetensorsFile, toFloat32, writeSafetensors},
  folder,
) {
  const path = join(folder, 'model.safetensors');
  const data = new Uint8Array(float32ToBfloat16(Float32Array.of(1, -2.5, Math.PI, 0)).buffer);
  await writeSafetensors(path, [{name: 'weight', dtype: 'BF16', shape: [2, 2], data}]);
  const file = SafetensorsFile.open(path);
  const {dtype, shape} = file.tensors.get('weight');
  const values = [...toFloat32(file.read('weight'), dtype, 'weight')];
  file.close();
  return {dtype, shape, values};
}

function errorOf({nearestNames, SafetensorsFile, TfjsLoraError}) {
  try {
    SafetensorsFile.open('no-such-folder/model.safetensors');
    return {thrown: false};
  } catch (error) {
    return {
      thrown: true,
      isOurs: error instanceof TfjsLoraError,
      code: error.code,
      nearest: nearestNames('q_prj', ['o_proj', 'lm_head', 'q_proj'], 1),
    };
  }
}

/** Counts the parameters of Llama 3.2 1B with LoRA, without its weights. */
function counts({Llama}, {countParameters}) {
  const model = Llama.fromConfig('llama-3.2-1b', {allocate: false});
  const {total} = countParameters(model);
  const {trainable} = countParameters(model.applyLoRA({rank: 8, targetModules: 'all-linear'}));
  model.dispose();
  return {total, trainable};
}

async function fineTune({AdamW, Llama}, folder) {
  const model = Llama.fromConfig(
    {
      vocabSize: 32,
      hiddenSize: 16,
      intermediateSize: 32,
      numHiddenLayers: 2,
      numAttentionHeads: 4,
      numKeyValueHeads: 2,
      tieWordEmbeddings: true,
      initializerRange: 0.5,
    },
    {seed: 1},
  );
  const inputIds = [
    [1, 2, 3, 4, 5, 6],
    [9, 8, 7, 6, 5, 4],
  ];
  const logits = model.predict(inputIds);
  model.applyLoRA({rank: 2, targetModules: 'all-linear', seed: 1});
  const fresh = model.predict(inputIds);
  model.compile({optimizer: new AdamW({learningRate: 0.05})});
  const {gradients} = await model.computeGradients({inputIds, labels: inputIds});
  const losses = [];
  for (let step = 0; step < 12; step++)
    losses.push((await model.trainOnBatch({inputIds, labels: inputIds})).loss);

  const trained = model.predict(inputIds);
  await model.saveAdapter(folder);
  await model.mergeLoRA();
  const merged = model.predict(inputIds);
  await model.unmergeLoRA();
  model.deleteAdapter('default');
  await model.loadAdapter(folder);
  const loaded = model.predict(inputIds);
  return {
    isLayersModel: model instanceof tf.LayersModel,
    shape: logits.shape,
    // A new adapter changes nothing and training does; merging and a round trip through files change nothing.
    fresh: distance(logits, fresh),
    trained: distance(logits, trained),
    merged: distance(trained, merged),
    loaded: distance(trained, loaded),
    gradients: Object.keys(gradients).length,
    firstGradient: Object.keys(gradients).sort()[0],
    losses,
  };
}

/** Uses a layer in a user's own model, and a subclass of it from outside the package. */
async function layerAlone({LoRADense}) {
  class HalvedLoRADense extends LoRADense {
    static className = 'HalvedLoRADense';
    call(inputs, kwargs) {
      return tf.tidy(() => super.call(inputs, kwargs).div(2));
    }
  }
  tf.serialization.registerClass(HalvedLoRADense);

  const x = tf.tensor2d([
    [1, 2, 3],
    [-1, 0, 4],
  ]);
  const plain = new LoRADense({units: 5, rank: 2, inputShape: [3], name: 'plain'});
  const halved = new HalvedLoRADense({units: 5, rank: 2, inputShape: [3], name: 'halved'});
  const model = tf.sequential({layers: [plain]});
  const other = tf.sequential({layers: [halved]});
  halved.setWeights(plain.getWeights());
  const copy = await tf.models.modelFromJSON(JSON.parse(other.toJSON()));
  copy.layers[0].setWeights(halved.getWeights());
  return {
    shape: model.predict(x).shape,
    halved: distance(model.predict(x).div(2), other.predict(x)),
    copied: distance(other.predict(x), copy.predict(x)),
    copyIsSubclass: copy.layers[0] instanceof HalvedLoRADense,
    trainable: plain.trainableWeights.length,
    frozen: plain.nonTrainableWeights.length,
  };
}

/** Returns the largest absolute difference. */
function distance(a, b) {
  return a.sub(b).abs().max().dataSync()[0];
}

/** Tokenizes on worker threads and reads Parquet, which both load additional modules. */
async function loadData({loadDataset, setWarningHandler}, {Tokenizer}, folder) {
  const warnings = [];
  const before = setWarningHandler((message) => warnings.push(message));
  const vocab = Object.fromEntries(Array.from({length: 95}, (_, id) => [String.fromCharCode(32 + id), id]));
  const tokenizer = new Tokenizer({
    tokenizer: {
      model: {type: 'BPE', vocab, merges: []},
      added_tokens: [{id: 95, content: '</s>', special: true}],
    },
    config: {eos_token: '</s>'},
  });
  const records = Array.from({length: 200}, (_, i) => ({instruction: `q${i}`, output: `a${i}`}));
  writeFileSync(join(folder, 'x.json'), JSON.stringify(records));
  const load = (file_name, workers) =>
    loadDataset({dataset: 'x', datasetDir: {x: {file_name}}, template: 'default', tokenizer, workers});
  const [alone, threaded] = [await load(join(folder, 'x.json'), 1), await load(join(folder, 'x.json'), 2)];
  const parquet = await load(join(__dirname, 'alpaca-zstd.parquet'), 1);
  setWarningHandler(before);
  return {
    same: JSON.stringify(alone) === JSON.stringify(threaded),
    examples: threaded.length,
    parquet: parquet.length,
    warnings,
  };
}

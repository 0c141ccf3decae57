/**
 * The four floors: quant (1) < layers (2) < models (3) < src (4). A floor imports only from itself and from below.
 * Checked by `npm run lint`; type-only imports count too.
 */

/**
 * Returns the rules for the order of a folder's rooms (a floor's wings, a wing's rooms), lowest first. A room imports
 * only from itself, from the lower rooms named beside it, and from outside the folder, where that folder's rules apply.
 * Files directly in the folder are above its rooms, unless the rooms share them.
 */
function rooms(folder, order, {shareFiles = false} = {}) {
  const all = Object.keys(order);
  const name = `rooms-of-${folder.replaceAll('/', '-')}`;
  const unlisted = {
    name,
    comment: `Every room of ${folder} has its place in the order here.`,
    severity: 'error',
    from: {path: `^${folder}/(?!(${all.join('|')})/)[^/]+/`},
    to: {},
  };
  const rules = all.map((room, place) => {
    const below = order[room];
    if (!below.every((each) => all.slice(0, place).includes(each)))
      throw new Error(`${folder}/${room} points up`);
    const others = all.filter((each) => each !== room && !below.includes(each));
    const refused = [`^${folder}/(${others.join('|')})/`, ...(shareFiles ? [] : [`^${folder}/[^/]+$`])];
    return {
      name: `${name}-${room}`,
      comment: `${folder}/${room} imports from its neighbours only ${below.join(', ') || 'none'}.`,
      severity: 'error',
      from: {path: `^${folder}/${room}/`},
      to: {path: refused.join('|')},
    };
  });
  return [unlisted, ...rules];
}

/** @type {import('dependency-cruiser').IConfiguration} */
module.exports = {
  forbidden: [
    {
      name: 'quant-imports-no-floor',
      comment: 'quant/ holds number formats and file formats: it knows no layer, model or trainer.',
      severity: 'error',
      from: {path: '^quant/'},
      to: {path: '^(layers|models|src)/'},
    },
    {
      name: 'layers-import-only-quant',
      comment: 'layers/ knows no model and no trainer.',
      severity: 'error',
      from: {path: '^layers/'},
      to: {path: '^(models|src)/'},
    },
    {
      name: 'models-import-only-layers-and-quant',
      comment: 'models/ knows no trainer, optimizer, data set, recipe or command line.',
      severity: 'error',
      from: {path: '^models/'},
      to: {path: '^src/'},
    },
    {
      name: 'floors-import-nothing-outside',
      comment: 'Tests, benchmarks, examples and documents use the library, never the reverse.',
      severity: 'error',
      from: {path: '^(quant|layers|models|src)/'},
      to: {path: '^(test|bench|examples|docs|dist)/'},
    },
    ...rooms(
      'quant',
      {
        blockwise: [],
        safetensors: [],
        folders: ['safetensors'],
        gguf: ['folders', 'safetensors'],
        grouped: ['safetensors'],
      },
      {shareFiles: true},
    ),
    ...rooms('layers', {ops: [], kernels: ['ops']}),
    ...rooms(
      'layers/kernels',
      {steps: [], cpu: ['steps'], wasm: ['steps'], tensorflow: ['steps'], webgpu: []},
      {shareFiles: true},
    ),
    ...rooms(
      'models',
      {
        patterns: [],
        chatTemplate: [],
        generation: [],
        peft: ['patterns'],
        keras: ['peft'],
        gguf: ['peft'],
        llama: [],
        mistral: ['llama'],
        qwen2: ['llama'],
        qwen3: ['qwen2', 'llama'],
        gemma: ['llama'],
        phi3: ['llama'],
        smollm3: ['llama'],
      },
      {shareFiles: true},
    ),
    ...rooms('src', {
      data: [],
      training: ['data'],
      tools: ['training', 'data'],
    }),
    ...rooms('src/data', {
      hub: [],
      batches: [],
      templates: [],
      datasets: ['templates', 'batches', 'hub'],
      preprocessing: ['datasets', 'templates', 'batches'],
      records: ['preprocessing', 'datasets', 'templates', 'batches'],
    }),
    ...rooms('src/training', {
      metrics: [],
      plots: [],
      output: [],
      protobuf: [],
      backends: [],
      optimizers: [],
      losses: [],
      cluster: ['backends', 'protobuf'],
      steps: ['optimizers', 'cluster', 'losses'],
      prediction: ['metrics', 'output', 'cluster'],
      run: ['prediction', 'steps', 'cluster', 'losses'],
      notebook: ['run', 'plots'],
      checkpoints: ['run', 'steps', 'optimizers', 'output', 'cluster'],
      callbacks: [
        'checkpoints',
        'notebook',
        'run',
        'steps',
        'cluster',
        'backends',
        'output',
        'plots',
        'protobuf',
        'losses',
      ],
    }),
    ...rooms('src/tools', {
      browser: [],
      chat: [],
      setup: [],
      serve: ['chat'],
      evaluation: [],
      recipes: ['evaluation', 'chat'],
      cli: ['recipes', 'serve', 'evaluation', 'chat', 'setup'],
    }),
    ...rooms('layers/kernels/webgpu', {
      device: [],
      elementwise: ['device'],
      weights: ['device'],
      products: ['device', 'weights'],
      attention: ['device', 'products'],
      optimizers: ['device', 'elementwise'],
      stack: ['device', 'elementwise', 'weights', 'products', 'attention'],
    }),
    ...rooms('layers/kernels/tensorflow', {
      device: [],
      elementwise: ['device'],
      weights: ['device'],
      products: ['device', 'weights'],
      attention: ['device', 'elementwise'],
      optimizers: ['device'],
      card: ['device'],
    }),
    {
      name: 'no-cycles',
      comment:
        'Files that import each other load in an order that depends on who asks. Circles of types are refused too: a file ' +
        'below takes the interface that it uses, and never the class above that calls it.',
      severity: 'error',
      from: {},
      to: {circular: true},
    },
    {
      name: 'one-tensorflow',
      comment:
        'Import `* as tf from "@tensorflow/tfjs"`: its parts are bundled in it, and a second copy is not ours.',
      severity: 'error',
      from: {path: '^(quant|layers|models|src)/'},
      to: {path: '@tensorflow/tfjs-(core|layers|data|converter|backend-cpu)(/|$)'},
    },
    {
      name: 'declared-dependencies',
      comment: 'The published floors may import only what package.json promises to install.',
      severity: 'error',
      from: {path: '^(quant|layers|models|src)/'},
      to: {
        dependencyTypes: ['npm-dev', 'npm-no-pkg', 'npm-unknown'],
        pathNot: '@tensorflow/tfjs/|@node-rs/jieba/',
      },
    },
    {
      name: 'resolvable',
      comment: 'The imported file or package does not exist.',
      severity: 'error',
      from: {},
      to: {couldNotResolve: true},
    },
  ],
  options: {
    doNotFollow: {path: 'node_modules'},
    tsPreCompilationDeps: true,
    tsConfig: {fileName: 'tsconfig.json'},
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'require', 'node', 'default', 'types'],
      mainFields: ['module', 'main', 'types'],
    },
  },
};

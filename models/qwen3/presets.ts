const qwen = {
  vocabSize: 151936,
  numKeyValueHeads: 8,
  headDim: 128,
  rmsNormEps: 1e-6,
  ropeTheta: 1e6,
  maxPositionEmbeddings: 40960,
  bosTokenId: 151643,
  eosTokenId: 151645,
};

/** Shapes of Qwen's published models. */
export const presets = {
  'qwen3-0.6b': {
    ...qwen,
    hiddenSize: 1024,
    intermediateSize: 3072,
    numHiddenLayers: 28,
    numAttentionHeads: 16,
    tieWordEmbeddings: true,
  },
  'qwen3-1.7b': {
    ...qwen,
    hiddenSize: 2048,
    intermediateSize: 6144,
    numHiddenLayers: 28,
    numAttentionHeads: 16,
    tieWordEmbeddings: true,
  },
  'qwen3-4b': {
    ...qwen,
    hiddenSize: 2560,
    intermediateSize: 9728,
    numHiddenLayers: 36,
    numAttentionHeads: 32,
    tieWordEmbeddings: true,
  },
  'qwen3-8b': {
    ...qwen,
    hiddenSize: 4096,
    intermediateSize: 12288,
    numHiddenLayers: 36,
    numAttentionHeads: 32,
  },
  'qwen3-14b': {
    ...qwen,
    hiddenSize: 5120,
    intermediateSize: 17408,
    numHiddenLayers: 40,
    numAttentionHeads: 40,
  },
};

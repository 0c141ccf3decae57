const gemma = {bosTokenId: 2, eosTokenId: 1, padTokenId: 0, rmsNormEps: 1e-6};
const gemma2 = {...gemma, vocabSize: 256000, slidingWindow: 4096};
const gemma3 = {...gemma, vocabSize: 262144, slidingWindow: 512, maxPositionEmbeddings: 32768};

/** Shapes of Google's published models. */
export const gemma2Presets = {
  'gemma-2-2b': {
    ...gemma2,
    hiddenSize: 2304,
    intermediateSize: 9216,
    numHiddenLayers: 26,
    numAttentionHeads: 8,
    numKeyValueHeads: 4,
  },
  'gemma-2-9b': {
    ...gemma2,
    hiddenSize: 3584,
    intermediateSize: 14336,
    numHiddenLayers: 42,
    numAttentionHeads: 16,
    numKeyValueHeads: 8,
  },
  'gemma-2-27b': {
    ...gemma2,
    hiddenSize: 4608,
    intermediateSize: 36864,
    numHiddenLayers: 46,
    numAttentionHeads: 32,
    numKeyValueHeads: 16,
    headDim: 128,
    queryPreAttnScalar: 144,
  },
};

/** Shapes of Google's published models that have no images. */
export const gemma3Presets = {
  'gemma-3-270m': {
    ...gemma3,
    hiddenSize: 640,
    intermediateSize: 2048,
    numHiddenLayers: 18,
    numAttentionHeads: 4,
    numKeyValueHeads: 1,
  },
  'gemma-3-1b': {
    ...gemma3,
    hiddenSize: 1152,
    intermediateSize: 6912,
    numHiddenLayers: 26,
    numAttentionHeads: 4,
    numKeyValueHeads: 1,
  },
};

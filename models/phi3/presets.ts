const phi = {vocabSize: 32064, rmsNormEps: 1e-5, bosTokenId: 1, eosTokenId: 32000, padTokenId: 32000};

/** Shapes of Microsoft's published models. */
export const presets = {
  'phi-3-mini-4k': {
    ...phi,
    hiddenSize: 3072,
    intermediateSize: 8192,
    numHiddenLayers: 32,
    numAttentionHeads: 32,
    slidingWindow: 2047,
  },
  'phi-3-medium-4k': {
    ...phi,
    hiddenSize: 5120,
    intermediateSize: 17920,
    numHiddenLayers: 40,
    numAttentionHeads: 40,
    numKeyValueHeads: 10,
    slidingWindow: 2047,
  },
  'phi-4': {
    ...phi,
    vocabSize: 100352,
    hiddenSize: 5120,
    intermediateSize: 17920,
    numHiddenLayers: 40,
    numAttentionHeads: 40,
    numKeyValueHeads: 10,
    ropeTheta: 250000,
    maxPositionEmbeddings: 16384,
    bosTokenId: 100257,
    eosTokenId: 100257,
    padTokenId: 100257,
  },
};

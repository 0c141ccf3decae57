const mistral = {
  hiddenSize: 4096,
  intermediateSize: 14336,
  numHiddenLayers: 32,
  numAttentionHeads: 32,
  numKeyValueHeads: 8,
  headDim: 128,
  maxPositionEmbeddings: 32768,
  rmsNormEps: 1e-5,
  bosTokenId: 1,
  eosTokenId: 2,
};

/** Shapes of Mistral's published models. */
export const presets = {
  'mistral-7b-v0.1': {...mistral, vocabSize: 32000, ropeTheta: 10000, slidingWindow: 4096},
  'mistral-7b-v0.3': {...mistral, vocabSize: 32768, ropeTheta: 1e6, slidingWindow: null},
  'mistral-nemo-12b': {
    ...mistral,
    vocabSize: 131072,
    hiddenSize: 5120,
    numHiddenLayers: 40,
    maxPositionEmbeddings: 131072,
    ropeTheta: 1e6,
    slidingWindow: null,
  },
};

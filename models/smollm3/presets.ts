/** Shapes of Hugging Face's published models. */
export const presets = {
  'smollm3-3b': {
    vocabSize: 128256,
    hiddenSize: 2048,
    intermediateSize: 11008,
    numHiddenLayers: 36,
    numAttentionHeads: 16,
    numKeyValueHeads: 4,
    rmsNormEps: 1e-6,
    ropeTheta: 5e6,
    maxPositionEmbeddings: 65536,
    tieWordEmbeddings: true,
    bosTokenId: 128000,
    eosTokenId: 128012,
  },
};

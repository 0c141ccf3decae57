import type {LlamaConfigArgs} from './config.ts';

const llama3 = {
  vocabSize: 128256,
  rmsNormEps: 1e-5,
  ropeTheta: 500000,
  maxPositionEmbeddings: 131072,
  numKeyValueHeads: 8,
  bosTokenId: 128000,
  eosTokenId: 128001,
};

const stretched = {
  type: 'llama3',
  lowFreqFactor: 1,
  highFreqFactor: 4,
  originalMaxPositionEmbeddings: 8192,
} as const;

/** Shapes of Meta's published models. */
export const presets = {
  'llama-3.2-1b': {
    ...llama3,
    hiddenSize: 2048,
    intermediateSize: 8192,
    numHiddenLayers: 16,
    numAttentionHeads: 32,
    headDim: 64,
    ropeScaling: {...stretched, factor: 32},
    tieWordEmbeddings: true,
  },
  'llama-3.2-3b': {
    ...llama3,
    hiddenSize: 3072,
    intermediateSize: 8192,
    numHiddenLayers: 28,
    numAttentionHeads: 24,
    headDim: 128,
    ropeScaling: {...stretched, factor: 32},
    tieWordEmbeddings: true,
  },
  'llama-3.1-8b': {
    ...llama3,
    hiddenSize: 4096,
    intermediateSize: 14336,
    numHiddenLayers: 32,
    numAttentionHeads: 32,
    headDim: 128,
    ropeScaling: {...stretched, factor: 8},
    tieWordEmbeddings: false,
  },
} satisfies Record<string, LlamaConfigArgs>;

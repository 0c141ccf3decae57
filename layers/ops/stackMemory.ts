import type {GradientCheckpointing} from './gradientCheckpointing.ts';

/** Sizes of a decoder like Llama. */
export interface DecoderShape {
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  numHiddenLayers: number;
  numAttentionHeads: number;
  numKeyValueHeads: number;
  headDim: number;
  maxPositionEmbeddings: number;
}

/** Bytes on the card while one op computes all decoder blocks, and another one head and loss. */
export interface StackMemory {
  /** Bytes kept from forward to backward. */
  saved: number;
  /** Bytes of the blocks' backward pass. */
  backward: number;
  /** Bytes during the loss, without its chunk of logits. */
  loss: number;
  logits: number;
  /** Bytes that are always in use. */
  rest: number;
}

/** A training step of a decoder, as {@link StackMemoryOf} takes it. */
export interface StackStep {
  config: DecoderShape;
  /** Ranks of the adapters, by names such as `q_proj`; layers without one are absent. */
  ranks: ReadonlyMap<string, number>;
  batchSize: number;
  sequenceLength: number;
  checkpointing: GradientCheckpointing;
  /** Whether the blocks' weights have fewer than 16 bits. */
  isQuantized: boolean;
}

/** Computes the memory of a training step from the buffers of a backend's own kernels. */
export type StackMemoryOf = (step: StackStep) => StackMemory;

import type {GradientCheckpointing} from '../../../layers/ops/gradientCheckpointing.ts';
import type {DecoderShape, StackMemory} from '../../../layers/ops/stackMemory.ts';

const MIB = 2 ** 20;
const FLOAT = 4;
const HALF = 2;
/**
 * Constants of `layers/kernels/tensorflow/native/cuda`: cuBLASLt's workspace, and the rounding of low-rank paths and
 * chunks.
 */
const WORKSPACE = 32 * MIB;
const SLOTS = 16;
const CHUNK = {step: 1024, gates: 136 * MIB, logits: 256 * MIB};
/**
 * Hidden states in float32 outside the blocks, and the remaining memory of TensorFlow's pool, as measured on one card.
 */
const OUTSIDE = {hidden: 3, rest: 192 * MIB};

/**
 * Computes the memory of a training step when the card's ops compute it. The buffers are those of `decoder_stack.cc`
 * and `linear_cross_entropy.cc` in `layers/kernels/tensorflow/native/cuda`.
 *
 * @param ranks ranks of the adapters, by names such as `q_proj`; layers without one are absent
 * @param isHeadUnpacked whether the head's matrix is not in bfloat16
 */
export function stackMemory(
  {config}: {config: DecoderShape},
  ranks: ReadonlyMap<string, number>,
  batchSize: number,
  sequenceLength: number,
  checkpointing: GradientCheckpointing,
  isHeadUnpacked: boolean,
): StackMemory {
  const {hiddenSize: hidden, intermediateSize: intermediate, numAttentionHeads: heads, vocabSize} = config;
  const positions = batchSize * sequenceLength;
  const query = heads * config.headDim;
  const joined = query + 2 * config.numKeyValueHeads * config.headDim;
  const slots = (...names: string[]) => {
    const together = names.reduce((sum, name) => sum + (ranks.get(`${name}_proj`) ?? 0), 0);
    return SLOTS * Math.ceil(together / SLOTS);
  };
  const [ofQKV, ofO, ofGateUp, ofDown] = [
    slots('q', 'k', 'v'),
    slots('o'),
    slots('gate', 'up'),
    slots('down'),
  ];
  const matrix = (rows: number, cols: number, slots: number) => HALF * (rows + slots) * (cols + slots);
  const rows = (width: number, count = positions) => HALF * count * width;

  const weights = Math.max(
    matrix(joined, hidden, ofQKV) + matrix(hidden, query, ofO),
    matrix(2 * intermediate, hidden, ofGateUp) + matrix(hidden, intermediate, ofDown),
  );
  const [normed, qkv, attended, gateUp] = [
    hidden + Math.max(ofQKV, ofGateUp),
    joined + ofQKV,
    query + ofO,
    2 * intermediate + ofGateUp,
  ];
  const fitting = Math.floor(CHUNK.gates / (HALF * gateUp) / CHUNK.step) * CHUNK.step;
  const chunk = Math.min(positions, Math.max(CHUNK.step, fitting));
  const feedForward = rows(normed + intermediate + ofDown + gateUp, chunk);
  const logSums = FLOAT * positions * heads;
  const recomputed = checkpointing ? rows(qkv + attended) + logSums : 0;
  const ofBlock = rows(hidden) + (checkpointing ? 0 : rows(qkv + attended + hidden + gateUp) + logSums);
  const inputs = checkpointing === 'offload' ? 2 * rows(hidden) : 0;

  const fittingLogits = Math.floor(CHUNK.logits / (HALF * vocabSize) / 128) * 128;
  const rowsOfLogits = Math.min(positions, Math.max(128, fittingLogits));
  const outside = OUTSIDE.hidden * FLOAT * positions * hidden;
  return {
    saved: checkpointing === 'offload' ? 0 : config.numHiddenLayers * ofBlock,
    backward:
      WORKSPACE +
      weights +
      recomputed +
      inputs +
      Math.max(feedForward + (checkpointing ? rows(hidden) : 0), rows(qkv)) +
      rows(normed + Math.max(hidden, query) + hidden + Math.max(ofO, ofDown)) +
      logSums +
      outside,
    loss: WORKSPACE + rows(hidden, rowsOfLogits) + (isHeadUnpacked ? HALF * vocabSize * hidden : 0) + outside,
    logits: rows(vocabSize, rowsOfLogits),
    rest: OUTSIDE.rest,
  };
}

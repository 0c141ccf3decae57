import type {StackMemory, StackStep} from '../../../ops/stackMemory.ts';
import {usesOctets} from '../device/octets.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {areMany} from '../weights/usingWeight.ts';
import {chunkRows as chunkOfLogits} from './linearCrossEntropy.ts';
import {blocksKeepingAttention, chunkRows, partRows, sharedWeights} from './stackSizes.ts';

const FLOAT = 4;
const HALF = 2;
/** Share by which buffers are larger than what they hold, and of free ones: of what is kept, and of everything else. */
const SLACK = {kept: 0.04, scratch: 0.2};
/** Partial sums of gradients, tables, losses and other small tensors. */
const REST = 32 * 2 ** 20;

/** {@link StackMemory} of `decoderStack` and `linearCrossEntropy` on this backend in float16. */
export function stackMemory(backend: WebGPUBackend, step: StackStep): StackMemory {
  const {config, batchSize, sequenceLength, checkpointing, isQuantized} = step;
  const {hiddenSize: hidden, intermediateSize: intermediate, numAttentionHeads: heads, vocabSize} = config;
  const rows = batchSize * sequenceLength;
  const query = heads * config.headDim;
  const keyValue = 2 * config.numKeyValueHeads * config.headDim;
  const halves = (width: number, count = rows) => HALF * count * width;
  const floats = (width: number, count = rows) => FLOAT * count * width;

  const attended = halves(query) + floats(heads);
  const attention = halves(query + keyValue) + attended;
  const blocks = config.numHiddenLayers;
  const {headDim} = config;
  const shape = {batch: batchSize, length: sequenceLength, heads, headDim};
  const keeping = checkpointing ? blocksKeepingAttention(blocks, hidden, shape) : 0;
  const ofBlock = checkpointing
    ? halves(hidden) + (keeping / blocks) * attended
    : halves(2 * hidden + 2 * intermediate) + attention;
  const wholeChunk = chunkRows(hidden, intermediate, checkpointing !== false);
  const part = Math.min(rows, partRows(hidden, wholeChunk));
  const chunk = Math.min(part, wholeChunk);
  const widths = [hidden, intermediate, query, keyValue / 2];
  const isWritten = areMany(chunk, isQuantized) || usesOctets(backend, rows, widths);
  const written = isWritten ? HALF * hidden * intermediate : 0;
  const weights = sharedWeights(Math.ceil(rows / chunk));
  const gates = halves(checkpointing ? 2 * intermediate : 4 * intermediate, chunk);
  const feedForward =
    gates + halves(2 * hidden, chunk) + Math.max(halves(intermediate, chunk), floats(hidden, chunk));
  const slope = floats(hidden);
  // Without the results, a block before the last makes them again, when what the last one kept is free.
  const again = checkpointing && keeping < blocks ? Math.max(0, attention - attended - halves(hidden)) : 0;
  const inFeedForward =
    again + (checkpointing ? floats(hidden, chunk) : 0) + feedForward + weights.backward * written;
  const ownHeads = checkpointing ? halves(query + keyValue) : 0;
  const madeForSlopes = halves(hidden + query, chunk);
  const madeForKeys = floats(keyValue) + halves(keyValue);
  const madeForQueries = halves(query + keyValue);
  const inAttention = ownHeads + halves(query) + Math.max(madeForSlopes, madeForKeys, madeForQueries);
  const inForward = Math.max(ownHeads + floats(query, part), feedForward + weights.forward * written);

  const logitRows = Math.min(rows, chunkOfLogits(backend, rows, hidden, vocabSize));
  const isOffloaded = checkpointing === 'offload'; // then what two blocks keep is on the card
  const saved = (isOffloaded ? 2 : blocks) * ofBlock;
  const backward = slope + Math.max(inFeedForward, inAttention, inForward);
  const loss = floats(hidden) + halves(hidden); // the norm of the blocks' result, and that result
  const logits = (FLOAT + HALF) * logitRows * vocabSize;
  return {
    saved,
    backward,
    loss,
    logits,
    rest: REST + SLACK.kept * saved + SLACK.scratch * Math.max(backward, loss + logits),
  };
}

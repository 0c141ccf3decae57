import * as tf from '@tensorflow/tfjs';
import {HostMemory, hostMemoryOf} from '../../../../layers/kernels/webgpu/device/hostMemory.ts';
import {ROWS_STEP} from '../../../../layers/kernels/webgpu/device/rowsView.ts';
import type {WebGPUBackend} from '../../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {KEPT_ATTENTION, PART, SHARED_WEIGHTS} from '../../../../layers/kernels/webgpu/stack/stackSizes.ts';
import {type DecoderStackOptions, decoderStack, decoderStackOp} from '../../../../layers/ops/decoderStack.ts';
import {hasKernel, runKernel} from '../../../../layers/ops/dispatch.ts';
import {freeSpent} from '../../../../layers/ops/freeSpent.ts';
import {storeQuantized} from '../../../../layers/ops/quantizedMatrix.ts';
import {settleGradients} from '../../../../layers/ops/settleGradients.ts';
import {
  attributesOfStack,
  PROJECTIONS,
  type StackBlock,
  type StackProjection,
  tensorsOfStack,
} from '../../../../layers/ops/stackBlock.ts';
import type {StoredMatrix} from '../../../../layers/ops/storedMatrix.ts';
import {quantizeNF4} from '../../../../quant/blockwise/fourBit.ts';
import {packFloat32Rows} from '../../../../quant/float16.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {choose, describeWebGPU, expectSame, normal} from './webgpuOnly.ts';

/** Of two blocks, one rounding after the other. Software drivers round to float16 toward zero, which doubles it. */
const TOLERANCE = 6e-3;
const [SIZE, INTERMEDIATE, HEADS, GROUPS, DIM] = [128, 192, 2, 1, 64];

/** Rows and columns of the linear layers. */
const SIDES: Record<(typeof PROJECTIONS)[number], [number, number]> = {
  q_proj: [HEADS * DIM, SIZE],
  k_proj: [GROUPS * DIM, SIZE],
  v_proj: [GROUPS * DIM, SIZE],
  o_proj: [SIZE, HEADS * DIM],
  gate_proj: [INTERMEDIATE, SIZE],
  up_proj: [INTERMEDIATE, SIZE],
  down_proj: [SIZE, INTERMEDIATE],
};

/** Weights as large as a trained model's: each output is about as large as its inputs. */
function randomMatrix(rows: number, cols: number, seed: number, isNF4: boolean): StoredMatrix {
  let state = seed;
  const values = Float32Array.from({length: rows * cols}, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return ((state / 2 ** 31 - 1) * 1.7) / Math.sqrt(cols);
  });
  if (isNF4) return storeQuantized(quantizeNF4(values, [rows, cols], {doubleQuant: true}));
  const words = packFloat32Rows(values, rows, cols, 'float16');
  return {tensor: tf.tensor2d(words, [rows, cols / 2], 'int32'), dtype: 'float16', rows, cols};
}

/** Whether products add a low-rank path themselves depends on its rank; 0 for no path. */
const RANKS = [8, 0, 5];

/** Two blocks, in each of which one matrix is nf4 and the others are float16. */
function randomBlocks(): StackBlock[] {
  return [0, 1].map((block) => {
    const projections = PROJECTIONS.map((name, i): [string, StackProjection] => {
      const [rows, cols] = SIDES[name];
      const seed = 100 * block + 10 * i;
      const weight = randomMatrix(rows, cols, seed + 1, name === 'o_proj');
      const rank = RANKS[i % RANKS.length];
      if (rank === 0) return [name, {weight}];
      const a = normal([rank, cols], seed + 2, 1 / Math.sqrt(cols)) as tf.Tensor2D;
      const b = normal([rows, rank], seed + 3, 0.3) as tf.Tensor2D;
      return [name, {weight, lora: {a, b, scaling: 1.5}}];
    });
    const norm = (seed: number) => tf.tidy(() => normal([SIZE], seed, 0.2).add(1));
    return {
      ...(Object.fromEntries(projections) as Record<(typeof PROJECTIONS)[number], StackProjection>),
      input_layernorm: norm(block + 51),
      post_attention_layernorm: norm(block + 61),
    };
  });
}

function adaptersOf(blocks: StackBlock[]): tf.Tensor[] {
  return blocks.flatMap((block) =>
    PROJECTIONS.flatMap((name) => {
      const {lora} = block[name];
      return lora ? [lora.a, lora.b] : [];
    }),
  );
}

/**
 * Expects inputs of blocks in host memory to give the same gradients bit for bit, and to leave no memory behind, even if
 * a block or a copy fails.
 */
async function offloads(
  run: (checkpointing: DecoderStackOptions['checkpointing']) => tf.Tensor,
  adapters: tf.Tensor[],
  dy: tf.Tensor,
): Promise<void> {
  const backend = tf.backend() as unknown as WebGPUBackend;
  const inUse = () => [
    tf.memory().numTensors,
    backend.bufferManager.numBytesUsed,
    hostMemoryOf(backend).bytesKept,
  ];
  const gradients = async (checkpointing: DecoderStackOptions['checkpointing']) => {
    const made = tf.grads(() => run(checkpointing))(adapters, dy);
    const values = await Promise.all(made.map((each) => each.data()));
    tf.dispose(made);
    return values;
  };
  const expected = await gradients(true);
  const early = tf.grads(() => run('offload'))(adapters, dy);
  expect(() => early[0].add(1)).toThrow('an op that uses them immediately');
  tf.dispose(early);
  await settleGradients();
  const before = inUse();
  for (let i = 0; i < 2; i++) expect(await gradients('offload')).toEqual(expected);
  tf.dispose(tf.grads(() => run('offload'))(adapters, dy)); // not waited for
  await settleGradients();
  const forward = () => tf.customGrad(() => ({value: run('offload'), gradFunc: () => []}))();
  tf.tidy(() => void forward());
  const {restore} = HostMemory.prototype;
  const fail = () => {
    throw new Error('no memory left');
  };
  for (const failing of ['a block', 'the copy of the next one']) {
    let restored = 0;
    jest.spyOn(HostMemory.prototype, 'restore').mockImplementation(async function (
      this: HostMemory,
      ...args
    ) {
      const isSecond = ++restored === 2;
      if (isSecond && failing === 'a block')
        jest.spyOn(backend, 'makeTensorInfo').mockImplementationOnce(fail);
      await restore.apply(this, args);
      if (isSecond && failing !== 'a block') fail();
    });
    const made = tf.grads(() => run('offload'))(adapters, dy);
    await expect(settleGradients()).rejects.toThrow('no memory left');
    tf.dispose(made);
    jest.restoreAllMocks();
    expect(restored).toBe(2);
  }
  expect(inUse()).toEqual(before);
  expect(hostMemoryOf(backend).bytesKept).toBe(0);
}

describeWebGPU('decoderStack in float16', () => {
  afterAll(() => choose('float32'));

  test('agrees with plain float32 ops, with and without checkpointing, and leaves no tensor', async () => {
    const [batch, length] = [2, 40];
    const blocks = randomBlocks();
    const x = normal([batch, length, SIZE], 7) as tf.Tensor3D;
    const angles = Float32Array.from({length: (length * DIM) / 2}, (_, i) => (i >> 5) / 10 ** ((i & 31) / 8));
    const table = (of: (angle: number) => number) => tf.tensor4d(angles.map(of), [1, 1, length, DIM / 2]);
    const segments = tf.tensor2d(
      Array.from({length: batch}, (_, b) =>
        Array.from({length}, (_, t) => (t < length - 9 * b ? 1 + (t >> 4) : 0)),
      ),
      [batch, length],
      'int32',
    );
    const tables = {cos: table(Math.cos), sin: table(Math.sin), segments};
    const options: DecoderStackOptions = {heads: HEADS, keyValueHeads: GROUPS, epsilon: 1e-5, ...tables};
    const inputs = [x, ...adaptersOf(blocks)];
    const dy = normal([batch, length, SIZE], 9, 1e-6);
    const run = (checkpointing: DecoderStackOptions['checkpointing']) => () =>
      decoderStack(x, blocks, {...options, checkpointing});
    const gradientsOf = (checkpointing: boolean) => tf.grads(run(checkpointing))(inputs, dy);

    await choose('float32');
    expect(hasKernel(decoderStackOp)).toBe(false);
    const [value, expected] = [run(false)(), gradientsOf(false)];
    await choose('float16');
    expect(hasKernel(decoderStackOp)).toBe(true);
    await expectSame(run(false)(), value, TOLERANCE);
    const spent = x.add(0) as tf.Tensor3D;
    const overwritten = decoderStack(spent, blocks, {...options, isInputSpent: true});
    expect(overwritten.dataId).toBe(spent.dataId);
    spent.dispose();
    await expectSame(overwritten, run(false)(), 0);
    const one = tf.scalar(1);
    const usual = {...KEPT_ATTENTION};
    const usualPart = {...PART};
    const {leastChunks} = SHARED_WEIGHTS;
    Object.assign(PART, {rows: ROWS_STEP, bytes: 0}); // the first part ends within the second sequence
    for (const [checkpointing, kept, least] of [
      [true, {}, leastChunks],
      [true, {bytes: 0}, 2], // only the last block keeps the results of attention, and backward its weights
      [false, {}, leastChunks],
    ] as const) {
      Object.assign(KEPT_ATTENTION, usual, kept);
      SHARED_WEIGHTS.leastChunks = least;
      const gradients = gradientsOf(checkpointing);
      const freed = tf.grads(() => {
        const y = tf.mul(run(checkpointing)(), one);
        freeSpent(dy);
        return y;
      })(inputs, dy);
      for (const [i, gradient] of freed.entries()) await expectSame(gradient, gradients[i].clone(), 0);
      for (const [i, gradient] of gradients.entries())
        await expectSame(gradient, expected[i].clone(), TOLERANCE);
      expectNoLeak(() => gradientsOf(checkpointing));
    }
    Object.assign(KEPT_ATTENTION, usual);
    Object.assign(PART, usualPart);
    SHARED_WEIGHTS.leastChunks = leastChunks;
    await offloads(
      (checkpointing) => decoderStack(x, blocks, {...options, checkpointing, isInputTrained: false}),
      inputs.slice(1),
      dy,
    );
    expect(() => tf.grads(run('offload'))(inputs, dy)).toThrow(
      "gradientCheckpointing on webgpu: expected true or false where embeddings train, got 'offload'",
    );
    tf.dispose([expected, dy, inputs, one]);
  });

  test('keeps tensors for backward in buffers that are no larger than they are', async () => {
    await choose('float16');
    const backend = tf.backend() as unknown as WebGPUBackend;
    const length = 256; // smaller results do not share buffers
    const blocks = randomBlocks();
    const table = tf.zeros([1, 1, length, DIM / 2]) as tf.Tensor4D;
    const options = {heads: HEADS, keyValueHeads: GROUPS, epsilon: 1e-5, cos: table, sin: table};
    const x = normal([1, length, SIZE], 7) as tf.Tensor3D;
    for (const checkpointing of [true, false]) {
      const stack = {
        attributes: attributesOfStack(blocks, {...options, checkpointing}),
        tensors: tensorsOfStack(blocks),
      };
      const inputs = {x, cos: table, sin: table};
      const attributes = {stack, isRecorded: true, isInputSpent: false};
      const kept = runKernel(decoderStackOp, inputs, attributes);
      for (const {dataId, size} of kept) expect(backend.tensorMap.get(dataId).resource?.size).toBe(4 * size);
      tf.dispose(kept);
    }
    tf.dispose([x, table]);
  });
});

import * as tf from '@tensorflow/tfjs';
import type {Replay} from '../../../../layers/ops/backendTraits.ts';
import {decodeAttention} from '../../../../layers/ops/decodeAttention.ts';
import {recordReplay} from '../../../../layers/ops/recordReplay.ts';
import {rmsNorm} from '../../../../layers/ops/rmsNorm.ts';
import {describeWebGPU, expectSame, normal} from './webgpuOnly.ts';

describeWebGPU('recorded commands', () => {
  /** Runs our ops and the stock backend's, with tensors between them. */
  const ops = (x: tf.Tensor2D, w: tf.Tensor2D) =>
    tf.tidy(() => tf.add(tf.matMul(rmsNorm(x, w.slice([0, 0], [8, 1]).flatten()), w).exp(), x.sum(1, true)));

  function record(
    inputs: tf.Tensor[],
    run: () => tf.Tensor,
  ): {replay: Replay | undefined; output: tf.Tensor} {
    let output = undefined as tf.Tensor | undefined;
    const replay = recordReplay(inputs, () => {
      output = run();
    });
    return {replay, output: output as tf.Tensor};
  }

  async function recorded(inputs: tf.Tensor[], run: () => tf.Tensor) {
    const {replay, output} = record(inputs, run);
    if (!replay) throw new Error('expected a replay, got none');
    await output.data();
    return {replay, output};
  }

  const bytesInUse = () => (tf.memory() as unknown as {numBytesInGPU: number}).numBytesInGPU;

  test('compute what the ops compute, on new values', async () => {
    const [x, w] = [normal([3, 8], 1), normal([8, 5], 2)] as tf.Tensor2D[];
    const before = bytesInUse();
    const {replay, output} = await recorded([x, w], () => ops(x, w));
    for (const seed of [3, 4]) {
      const next = normal([3, 8], seed) as tf.Tensor2D;
      replay.run({writes: [[x, await next.data()]]});
      await expectSame(output.clone(), ops(next, w));
      next.dispose();
    }
    output.dispose();
    replay.dispose();
    await x.data(); // submits: uniforms go with it
    tf.dispose([x, w]);
    expect(bytesInUse()).toBe(before);
  });

  test('feed an output back', async () => {
    const x = tf.tensor1d([1, 2, 3]);
    const {replay, output} = await recorded([x], () => x.mul(x));
    for (let i = 0; i < 2; i++) replay.run({copies: [[output, x]]});
    expect(Array.from(await output.data())).toEqual([1, 2 ** 8, 3 ** 8]);
    replay.dispose();
    tf.dispose([x, output]);
  });

  test('overwrite nothing that others made since', async () => {
    const [x, w] = [normal([3, 8], 1), normal([8, 5], 2)] as tf.Tensor2D[];
    const {replay, output} = await recorded([x, w], () => ops(x, w));
    const others = [[3, 8], [3, 5], [3, 1], [3]].map((shape) => tf.ones(shape).mul(7)); // sizes of the results between the ops
    replay.run({});
    for (const other of others) expect(new Set(await other.data())).toEqual(new Set([7]));
    replay.dispose();
    tf.dispose([x, w, output, ...others]);
  });

  test('count positions', async () => {
    const [query, key, value] = [normal([1, 16], 1), normal([1, 8], 2), normal([1, 8], 3)] as tf.Tensor2D[];
    const [cos, sin] = [normal([1, 1, 1, 4], 4), normal([1, 1, 1, 4], 5)] as tf.Tensor4D[];
    const inputs = {query, key, value, cos, sin};
    const caches = () => [normal([1, 1, 6, 8], 6), normal([1, 1, 6, 8], 7)] as tf.Tensor4D[];
    const [keys, values] = caches();
    const {replay, output} = await recorded([...Object.values(inputs), keys, values], () => {
      const [attended, ...same] = decodeAttention({...inputs, keys, values}, 2);
      tf.dispose(same);
      return attended;
    });
    const [expectedKeys, expectedValues] = caches();
    for (const past of [3, 4]) {
      const newQuery = normal([1, 16], 10 + past) as tf.Tensor2D;
      replay.run({writes: [[query, await newQuery.data()]]});
      if (past === 3)
        // what the recording itself had put there
        tf.dispose(decodeAttention({...inputs, keys: expectedKeys, values: expectedValues}, 2));
      const again = {...inputs, query: newQuery, keys: expectedKeys, values: expectedValues};
      const [expected, ...same] = decodeAttention(again, past);
      await expectSame(output.clone(), expected);
      tf.dispose([newQuery, ...same]);
    }
    await expectSame(keys, expectedKeys);
    await expectSame(values, expectedValues);
    replay.dispose();
    tf.dispose([query, key, value, cos, sin, output]);
  });

  test('are no longer current after one of their tensors is freed', async () => {
    const x = normal([4], 1);
    const w = normal([4], 2);
    const first = await recorded([x, w], () => x.mul(w));
    expect(first.replay.isCurrent).toBe(true);
    w.dispose();
    expect(first.replay.isCurrent).toBe(false);
    const taken = normal([4], 3).add(1); // its buffer, in another loan
    expect(first.replay.isCurrent).toBe(false);
    const second = await recorded([x], () => x.mul(x));
    second.output.dispose();
    expect(second.replay.isCurrent).toBe(false);
    for (const {replay} of [first, second]) replay.dispose();
    tf.dispose([x, taken, first.output]);
  });

  test('are not kept if values come from the host or an earlier tensor is freed', async () => {
    const x = normal([4], 1);
    await x.add(0).data();
    const before = bytesInUse();
    const uploaded = record([x], () => tf.tidy(() => x.mul(tf.tensor1d([1, 2, 3, 4]))));
    expect(uploaded.replay).toBeUndefined();
    await expectSame(uploaded.output, x.mul(tf.tensor1d([1, 2, 3, 4])));
    const y = x.clone().mul(2);
    const spent = record([x], () => {
      const result = x.mul(y);
      y.dispose();
      return result;
    });
    expect(spent.replay).toBeUndefined();
    await expectSame(spent.output, x.mul(x).mul(2));
    expect(() =>
      record([x], () => {
        x.mul(x).dispose();
        throw new Error('of an op');
      }),
    ).toThrow('of an op');
    await x.data();
    expect(bytesInUse()).toBeLessThanOrEqual(before + 64); // the references' constants above
    x.dispose();
  });
});

import * as tf from '@tensorflow/tfjs';
import type {KeyValueCache} from '../../../layers/keyValueCache.ts';
import {canRecord, recordReplay} from '../../../layers/ops/recordReplay.ts';
import {generateIds, stream} from '../../../models/generation/generate.ts';
import {createRows} from '../../../models/generation/row.ts';
import {RowGroup} from '../../../models/generation/rowGroup.ts';
import {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {stirAdapter} from '../tinyLlama.ts';

describeEachBackend('generation by a Llama', (backend) => {
  let tensorsBefore: number;
  let model: LlamaForCausalLM;
  beforeAll(() => {
    tensorsBefore = tf.memory().numTensors;
    model = LlamaForCausalLM.fromConfig(
      {
        vocabSize: 97,
        hiddenSize: 32,
        intermediateSize: 48,
        numHiddenLayers: 2,
        numAttentionHeads: 4,
        numKeyValueHeads: 2,
        maxPositionEmbeddings: 320,
        initializerRange: 0.3, // wide enough that logits differ clearly from token to token
        ropeScaling: {
          type: 'llama3',
          factor: 4,
          lowFreqFactor: 1,
          highFreqFactor: 4,
          originalMaxPositionEmbeddings: 16,
        },
      },
      {seed: 3},
    );
  });
  afterAll(() => {
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  const PROMPTS = [[5, 17, 3, 88, 41, 2, 60], [9], [12, 12, 30]];

  /** Computes the logits `[vocab]` after the last of `ids`, with the whole sequence in one pass. */
  function logitsAfter(ids: number[]): Promise<Float32Array> {
    return read(() => model.predict([ids]).slice([0, ids.length - 1, 0], [1, 1, -1]));
  }

  async function read(make: () => tf.Tensor): Promise<Float32Array> {
    const tensor = tf.tidy(make);
    const values = (await tensor.data()) as Float32Array;
    tensor.dispose();
    return values;
  }

  function expectClose(actual: ArrayLike<number>, expected: Float32Array): void {
    const scale = expected.reduce((largest, x) => Math.max(largest, Math.abs(x)), 0);
    const error = expected.reduce((largest, x, i) => Math.max(largest, Math.abs(x - actual[i])), 0);
    expect(error / scale).toBeLessThan(1e-5);
  }

  test('computes with the cache, in pieces of any length, the logits without it', async () => {
    const ids = [5, 17, 3, 88, 41, 2, 60, 7, 7, 21];
    const cache: KeyValueCache = model.newCache();
    let end = 0;
    for (const length of [4, 1, 3, 1, 1]) {
      const piece = ids.slice(end, end + length);
      end += length;
      const logits = await read(() => {
        const hidden = model.forward(tf.tensor2d([piece], undefined, 'int32'), {cache});
        return model.logitsOf(hidden.slice([0, length - 1, 0], [1, 1, -1]));
      });
      expect(cache.length).toBe(end);
      expectClose(logits, await logitsAfter(ids.slice(0, end)));
    }
    cache.dispose();
  });

  test('chooses the greedy tokens of whole passes without a cache', async () => {
    const ids = await generateIds(model, PROMPTS[0], {maxNewTokens: 12});
    const expected = [...PROMPTS[0]];
    for (let i = 0; i < 12; i++) {
      const logits = await logitsAfter(expected);
      expected.push(logits.indexOf(Math.max(...logits)));
    }
    expect(ids).toEqual(expected.slice(PROMPTS[0].length));
    expect(new Set(ids).size).toBeGreaterThan(4);
  });

  test('gives a left-padded batch what it gives each prompt alone, also after a row has left', async () => {
    const alone = [];
    for (const prompt of PROMPTS) alone.push(await generateIds(model, prompt, {maxNewTokens: 12}));
    expect(await generateIds(model, PROMPTS, {maxNewTokens: 12})).toEqual(alone);

    const eosTokenId = alone[0][3];
    const ends = alone.map((ids) => (ids.includes(eosTokenId) ? ids.indexOf(eosTokenId) + 1 : ids.length));
    expect(new Set(ends).size).toBeGreaterThan(1);
    expect(await generateIds(model, PROMPTS, {maxNewTokens: 12, eosTokenId})).toEqual(
      alone.map((ids, row) => ids.slice(0, ends[row])),
    );
  });

  // Where no kernel appends to the cache, it has no spare room; `cpu` takes half a minute to show that.
  (backend === 'cpu' ? test.skip : test)('goes on where the cache makes more room', async () => {
    const ids = [...PROMPTS[0], ...(await generateIds(model, PROMPTS[0], {maxNewTokens: 290}))];
    for (const end of [250, 256, 257, 258, 259, 296]) {
      const logits = await logitsAfter(ids.slice(0, end));
      expect(ids[end]).toBe(logits.indexOf(Math.max(...logits)));
    }
    expect(new Set(ids.slice(250)).size).toBeGreaterThan(4);
  });

  test('samples repeatably, and the same in a batch', async () => {
    const settings = {doSample: true, temperature: 1.5, topK: 20, topP: 0.95, seed: 7, maxNewTokens: 10};
    const [first] = await generateIds(model, PROMPTS, settings);
    expect(await generateIds(model, PROMPTS[0], settings)).toEqual(first);
  });

  test('gives each prompt what its adapter gives it alone, while rows leave', async () => {
    const adapters = {
      a: {rank: 2, alpha: 3, targetModules: ['q_proj', 'v_proj']},
      b: {rank: 4, alpha: 5, useRsLoRA: true},
      c: {rank: 3, useDoRA: true, targetModules: ['o_proj', 'down_proj']},
    };
    for (const [adapterName, options] of Object.entries(adapters)) {
      model.applyLoRA({...options, adapterName});
      stirAdapter(model, adapterName);
    }
    model.setAdapter('a');
    const {numTensors, numDataBuffers} = tf.memory();
    const prompts = [...PROMPTS, [4, 4]];
    const adapterNames = ['b', 'a', '__base__', 'c'];
    const forward = jest.spyOn(model, 'forward');
    const first = await generateIds(model, prompts, {maxNewTokens: 8, adapterNames});
    expect(forward).toHaveBeenCalledTimes(canRecord() ? 3 : 8); // the third pass is recorded, and then replayed
    forward.mockRestore();
    const options = {maxNewTokens: 8, eosTokenId: [first[0][4], first[1][2]]}; // of one row each
    const together = await generateIds(model, prompts, {...options, adapterNames});
    expect(new Set(together.map(({length}) => length)).size).toBeGreaterThan(2);
    for (const [row, name] of adapterNames.entries()) {
      const own = () => generateIds(model, prompts[row], options);
      expect(together[row]).toEqual(await model.withAdapters(name === '__base__' ? [] : name, own));
      expect(together[row]).toEqual(await generateIds(model, prompts[row], {...options, adapterNames: name}));
    }
    expect(model.activeAdapters).toEqual(['a']);
    expect(tf.memory()).toMatchObject({numTensors, numDataBuffers});
    for (const name of Object.keys(adapters)) model.deleteAdapter(name);
  });

  test('gives rows that join others what it gives them alone', async () => {
    const {numTensors, numDataBuffers} = tf.memory();
    const options = {maxNewTokens: 7};
    const [first, ...others] = createRows(model, PROMPTS, options);
    const group = new RowGroup(model, [first]);
    for (let token = 0; token < 3; token++) await group.next();
    const joining = new RowGroup(model, others);
    await joining.next();
    group.join(joining);
    while (group.rows.length > 0) await group.next();
    group.dispose();
    for (const {index, newIds} of [first, ...others])
      expect(newIds).toEqual(await generateIds(model, PROMPTS[index], options));
    expect(tf.memory()).toMatchObject({numTensors, numDataBuffers});
  });

  (backend === 'webgpu' ? test : test.skip)(
    'compiles and records nothing for a swapped adapter',
    async () => {
      const [files, options] = [new Map<string, Blob>(), {maxNewTokens: 6}];
      model.applyLoRA({rank: 4, alpha: 8});
      stirAdapter(model, 'default', 9);
      await model.saveAdapter(files);
      const expected = await generateIds(model, PROMPTS, options);
      stirAdapter(model, 'default', 1);
      expect(await generateIds(model, PROMPTS, options)).not.toEqual(expected);
      const layer = model.blocks[0].self_attn.q_proj;
      const x = tf.ones([1, 32]);
      (layer.apply(x) as tf.Tensor).dispose(); // uploads
      let y: tf.Tensor | undefined;
      const replay = recordReplay([x], () => {
        y = layer.apply(x) as tf.Tensor;
      });
      const {device} = tf.backend() as unknown as {device: GPUDevice};
      const compile = [
        jest.spyOn(device, 'createComputePipeline'),
        jest.spyOn(device, 'createComputePipelineAsync'),
      ];
      await model.hotswapAdapter(files);
      expect(replay!.isCurrent).toBe(true);
      replay!.run({});
      const swapped = await y!.data();
      expect(swapped).toEqual(await read(() => layer.apply(x) as tf.Tensor));
      expect(await generateIds(model, PROMPTS, options)).toEqual(expected);
      for (const spy of compile) expect(spy).not.toHaveBeenCalled();
      replay!.dispose();
      tf.dispose([x, y]);
      jest.restoreAllMocks();
      model.deleteAdapter('default');
    },
  );

  test('frees every tensor and buffer', async () => {
    await generateIds(model, PROMPTS, {maxNewTokens: 3}); // makes the tables that are kept
    const {numTensors, numDataBuffers} = tf.memory();
    await generateIds(model, PROMPTS, {maxNewTokens: 6, eosTokenId: 1});
    await expect(stream(model, [5]).next()).rejects.toMatchObject({code: 'UNSUPPORTED'});
    expect(tf.memory()).toMatchObject({numTensors, numDataBuffers});
  });
});

import {join, resolve} from 'node:path';
import {generateIds} from '../../../models/generation/generate.ts';
import {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {expectClose, FIXTURES, goldenNamed, readGoldens, readJson} from '../golden.ts';

const {
  adapter_names: adapterNames,
  input_ids: inputIds,
  tokens,
} = readJson<{
  adapter_names: string[];
  input_ids: number[][];
  tokens: number[][];
}>('../mixedBatch/fixtures/case.json');
const logits = goldenNamed(
  readGoldens(resolve('test/parity/mixedBatch/fixtures/logits.safetensors')),
  'logits',
);

describeEachBackend("a batch with an adapter per row equals PEFT's", () => {
  let model: LlamaForCausalLM;
  beforeAll(async () => {
    model = await LlamaForCausalLM.fromPretrained(join(FIXTURES, 'models/tied-gqa-llama3'));
    for (const name of ['a', 'b', 'c'])
      await model.loadAdapter(resolve('test/parity/combining/fixtures', name), {adapterName: name});
  });
  afterAll(() => {
    model.dispose();
  });

  test('logits', async () => {
    const actual = model.predict(inputIds, {adapterNames});
    await expectClose(actual, logits, 1e-5);
    actual.dispose();
  });

  test('greedy tokens', async () => {
    expect(await generateIds(model, inputIds, {adapterNames, maxNewTokens: 8})).toEqual(tokens);
  });
});

import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {parse} from 'yaml';
import {Llama} from '../../src/index.ts';
import {describeFastBackends} from '../describeEachBackend.ts';
import {runCommandLine} from '../src/tools/cli/runCommandLine.ts';
import {temporaryFolder} from '../src/training/temporaryFolder.ts';

/*
 * Two recipes written for LLaMA-Factory, to train an adapter and to merge it. They are unchanged; only paths are given
 * on the command line. They use bfloat16, which on processors only the backend of TensorFlow has.
 */

const root = join(__dirname, '../..');
const model = join(root, 'examples/quickstart/model');
const guide = (name: string) => join(__dirname, 'guide', name);
const pathOf = temporaryFolder();

beforeAll(() => {
  process.env.HF_HOME = pathOf('cache'); // for tokenized data
  const bills = Array.from({length: 40}, (_, i) => ({
    instruction: 'Summarize the bill.',
    input: `SECTION 1. The Secretary may award ${i + 1} medals to veterans of the Coast Guard.`,
    output: `Lets the Secretary award ${i + 1} medals.`,
  }));
  mkdirSync(pathOf('data'));
  writeFileSync(join(pathOf('data'), 'bills.json'), JSON.stringify(bills));
  const info = {summarization_data_train: {file_name: 'bills.json'}};
  writeFileSync(join(pathOf('data'), 'dataset_info.json'), JSON.stringify(info));
});

test.each(['train_lora.yaml', 'merge_lora.yaml'])("examples/recipes/%s has the guide's keys", (name) => {
  const keys = (path: string) => parse(readFileSync(path, 'utf8'));
  expect(keys(join(root, 'examples/recipes', name))).toEqual(keys(guide(name)));
});

describeFastBackends("the guide's recipes", (backend) => {
  test('train and merge', async () => {
    const [saved, merged] = [pathOf(`${backend}/saved`), pathOf(`${backend}/merged`)];
    const training = await runCommandLine(
      ...['--backend', backend, 'train', guide('train_lora.yaml'), `model_name_or_path=${model}`],
      ...[`dataset_dir=${pathOf('data')}`, `output_dir=${saved}`],
    );
    expect(training).toMatchObject({status: 0});
    const said =
      backend === 'tensorflow' ? /products (in|of) bfloat16/ : /float32 is the nearest type to bfloat16/;
    expect(training.out).toMatch(said);
    expect(training.out).toMatch(/^steps +2 of 4 × 8 examples, 2 an epoch$/m); // 36 examples remain for training
    const {train_loss, eval_loss} = JSON.parse(readFileSync(join(saved, 'all_results.json'), 'utf8'));
    expect([train_loss, eval_loss].every((loss) => loss > 0 && loss < 10)).toBe(true);

    const merging = await runCommandLine(
      ...['--backend', backend, 'export', guide('merge_lora.yaml'), `model_name_or_path=${model}`],
      ...[`adapter_name_or_path=${saved}`, `export_dir=${merged}`],
    );
    expect(merging).toMatchObject({status: 0});
    const answers = await Llama.fromPretrained(merged);
    expect(await answers.generate('Summarize', {maxNewTokens: 2})).toEqual(expect.any(String));
    answers.dispose();
  }, 300_000);
});

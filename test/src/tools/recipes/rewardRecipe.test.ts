import {cpSync, existsSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {Llama} from '../../../../src/index.ts';
import {exportModel} from '../../../../src/tools/recipes/exportModel.ts';
import {loadRecipe} from '../../../../src/tools/recipes/recipe.ts';
import {trainRecipe} from '../../../../src/tools/recipes/trainRecipe.ts';
import {errorOf, inFolder} from '../../../models/tinyLlama.ts';

const MODEL = join(__dirname, '../../../../examples/quickstart/model');
const DATA = join(__dirname, '../../../parity/preferences/fixtures');

test('stage rm trains a reward model, evaluates it, predicts scores with it and exports it', () =>
  inFolder(async (folder) => {
    const recipe = join(folder, 'recipe.yaml');
    const [out, predicted, exportDir] = ['out', 'predicted', 'export'].map((name) => join(folder, name));
    writeFileSync(
      recipe,
      `stage: rm
model_name_or_path: ${MODEL}
do_train: true
lora_rank: 2
dataset: turns
dataset_dir: ${DATA}
val_size: 0.4
eval_strategy: epoch
template: llama3
cutoff_len: 64
output_dir: ${out}
logging_steps: 1
save_strategy: "no"
num_train_epochs: 1
learning_rate: 1.0e-3
plot_loss: true
seed: 7
`,
    );
    const run = async (...overrides: string[]) =>
      trainRecipe(await loadRecipe(recipe, overrides), {backend: 'wasm', verbose: 0});
    await run();
    const json = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8'));
    const log = json(out, 'trainer_state.json').log_history;
    expect(log[0]).toMatchObject({loss: expect.any(Number), accuracy: expect.any(Number)});
    const trained = json(out, 'eval_results.json');
    expect(trained).toMatchObject({eval_loss: expect.any(Number), eval_accuracy: expect.any(Number)});
    for (const name of ['value_head.safetensors', 'adapter_model.safetensors', 'training_eval_accuracy.svg'])
      expect([name, existsSync(join(out, name))]).toEqual([name, true]);

    const use = [
      'do_train=false',
      'eval_strategy=no',
      `adapter_name_or_path=${out}`,
      `output_dir=${predicted}`,
    ];
    await run(...use, 'do_eval=true', 'do_predict=true');
    const {eval_loss, eval_accuracy} = json(predicted, 'eval_results.json');
    expect(eval_loss).toBeCloseTo(trained.eval_loss, 5);
    const lines = readFileSync(join(predicted, 'generated_predictions.jsonl'), 'utf8').split('\n');
    expect(lines).toHaveLength(3);
    for (const line of lines)
      expect(line).toMatch(/^\{"chosen": -?\d\.\d{1,2}, "rejected": -?\d\.\d{1,2}\}$/);
    const {predict_loss, predict_accuracy} = json(predicted, 'predict_results.json');
    expect(predict_loss).toBeCloseTo(eval_loss, 4);
    expect(predict_accuracy).toBeCloseTo(eval_accuracy, 6);

    await exportModel({model: MODEL, adapters: [out], exportDir, dtype: 'float32'});
    const answer = [{prompt: 'What is this bill?', completion: 'It funds roads.'}];
    const whole = await (await Llama.fromPretrained(exportDir)).loadValueHead(exportDir);
    const adapted = await Llama.fromPretrained(MODEL, {dtype: 'float32'});
    await (await adapted.loadAdapter(out)).loadValueHead(out);
    expect((await whole.score(answer))[0]).toBeCloseTo((await adapted.score(answer))[0], 4);
    for (const model of [whole, adapted]) model.dispose();

    const headless = join(folder, 'headless');
    for (const name of ['adapter_config.json', 'adapter_model.safetensors'])
      cpSync(join(out, name), join(headless, name));
    const failed = await errorOf(() =>
      run(...use, `adapter_name_or_path=${headless}`, `output_dir=${headless}`, 'do_eval=true'),
    );
    expect(failed).toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining('value_head.safetensors'),
    });
  }));

import type {Command} from 'commander';
import {counted} from '../../../../quant/counted.ts';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import {show} from '../../../../quant/show.ts';
import {assertCanPlot} from '../../../training/plots/renderPlot.ts';
import type {PredictionProgress} from '../../../training/prediction/predictDataset.ts';
import {formatScores} from '../../../training/prediction/predictionScores.ts';
import {formatBytes} from '../../../training/run/formatBytes.ts';
import {parseCandidate} from '../../evaluation/compareModels.ts';
import {formatBenchmark} from '../../evaluation/scoreBenchmark.ts';
import {
  benchmarkRecipe,
  compareRecipe,
  drawComparison,
  evaluateRecipe,
} from '../../recipes/evaluateRecipe.ts';
import {recipeOf} from '../../recipes/recipeOf.ts';
import {type CommonOptions, separateOverrides} from '../commandOptions.ts';
import {withExamples} from '../withExamples.ts';

interface EvalOptions extends CommonOptions {
  compare?: string[];
  plot?: string;
  json: boolean;
}

export function register(program: Command): void {
  const evaluating = program
    .command('eval')
    .description(
      "Answer a recipe's evaluation data and score the answers, compare a model before and after training, or run a " +
        'benchmark of knowledge.',
    )
    .argument('<recipe>', 'a YAML file in the format of LLaMA-Factory, with eval_dataset, val_size or task')
    .argument('[key=value...]', 'recipe keys that override the file')
    .option(
      '--compare <model...>',
      'base, and folders of adapters; the prefix nf4:, fp4: or int8: quantizes the base',
    )
    .option('--plot <file>', 'draw the comparison as a .png or .svg file')
    .option('--json', 'print JSON', false)
    .action(async (path: string, overrides: string[], _options: unknown, command: Command) => {
      const {backend, compare, plot, json} = command.optsWithGlobals<EvalOptions>();
      const compared = separateOverrides(compare ?? []);
      const recipe = await recipeOf(path, [...overrides, ...compared.overrides]);
      const onModel = (description: string) => console.error(`scoring ${description}`);
      const options = {backend, onProgress: showProgress, onModel};
      if (recipe.benchmark.task !== undefined) {
        assertAlone({compare, plot});
        const given = {backend, onModel, onProgress: showQuestions};
        const {model, result} = await benchmarkRecipe(recipe, given);
        console.log(json ? JSON.stringify({model, ...result}, null, 2) : formatBenchmark(result.scores));
        return;
      }
      if (plot !== undefined) await assertCanPlot();
      if (compare === undefined) {
        const {model, prediction, evaluation} = await evaluateRecipe(recipe, options);
        if (json) {
          console.log(JSON.stringify({model, ...prediction.metrics, ...evaluation}, null, 2));
          return;
        }
        const {loss, perplexity} = evaluation;
        console.log(`${model}\n`);
        console.log(formatScores(prediction.scores));
        console.log(`\nloss ${loss.toFixed(4)}, perplexity ${perplexity.toFixed(4)}`);
        console.log(
          `${counted(prediction.predictions.length, 'prompt')}, ${counted(prediction.newTokens, 'token')} in ` +
            `${prediction.seconds.toFixed(1)} s, ${formatBytes(prediction.peakBytes)} of tensors at the peak`,
        );
      } else {
        const candidates = compared.own.map((text) => parseCandidate(text, recipe.model.quantization?.type));
        const {comparisons, table, count} = await compareRecipe(recipe, candidates, options);
        if (plot !== undefined) await drawComparison(comparisons, plot, count);
        console.log(json ? JSON.stringify(comparisons, null, 2) : table);
      }
      if (recipe.fit.outputDir !== undefined && !json) console.log(`\noutput ${recipe.fit.outputDir}`);
    });
  withExamples(
    evaluating,
    ['tfjs-lora eval recipe.yaml', 'score the answers of the trained model'],
    [
      'tfjs-lora eval recipe.yaml --compare base nf4:base saves/lora --plot scores.png',
      'compare the base, the base in 4 bits, and an adapter',
    ],
    [
      'tfjs-lora eval recipe.yaml task=mmlu_test template=fewshot',
      'run a benchmark from the folder evaluation/mmlu',
    ],
  );
}

/** Refuses what a benchmark does not do. */
function assertAlone(options: {compare?: string[]; plot?: string}): void {
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    throw new TfjsLoraError('INVALID_ARGUMENT', `--${name}: expected none with task, got ${show(value)}`);
  }
}

/** Shows how many questions are answered in one line on standard error, which a terminal overwrites. */
function showQuestions({done, total, subject}: {done: number; total: number; subject: string}): void {
  const text = `${done} of ${counted(total, 'question')}, ${subject}`;
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}${done === total ? '\n' : ''}`);
  else if (done === total) process.stderr.write(`${text}\n`);
}

/** Shows the progress in one line on standard error, which a terminal overwrites. */
function showProgress(label: string, {done, total, newTokens, seconds}: PredictionProgress): void {
  const speed = seconds > 0 ? `, ${(newTokens / seconds).toFixed(1)} tokens/s` : '';
  const text = `${label === '' ? '' : `${label}: `}${done} of ${counted(total, 'prompt')}${speed}`;
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}${done === total ? '\n' : ''}`);
  else if (done === total) process.stderr.write(`${text}\n`);
}

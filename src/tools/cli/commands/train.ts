import type {Command} from 'commander';
import {setWarningHandler} from '../../../../quant/warn.ts';
import {printAboveProgress} from '../../../training/callbacks/progressBar.ts';
import {formatPlan} from '../../recipes/formatPlan.ts';
import {planRecipe} from '../../recipes/planRecipe.ts';
import {loadRecipe} from '../../recipes/recipe.ts';
import {trainRecipe} from '../../recipes/trainRecipe.ts';
import {type CommonOptions, positiveNumber} from '../commandOptions.ts';
import {commandWith} from '../commandWith.ts';
import {ExitStatus} from '../exitStatus.ts';
import {nextCommands} from '../nextCommands.ts';
import {stopOnInterrupt} from '../stopOnInterrupt.ts';
import {withExamples} from '../withExamples.ts';

/** Exit status of a run that a signal stopped. It is the shell's status for SIGINT, whatever the signal was. */
const STOPPED = 130;

interface TrainOptions extends CommonOptions {
  dryRun: boolean;
  memoryBudget?: number;
}

export function register(program: Command): void {
  const train = program
    .command('train')
    .description(
      'Run a recipe: train, evaluate and predict, according to its do_train, do_eval and do_predict.',
    )
    .argument('<recipe>', 'a YAML file in the format of LLaMA-Factory')
    .argument('[key=value...]', 'recipe keys that override the file')
    .option('--dry-run', 'check everything and print the plan, without running it', false)
    .option(
      '--memory-budget <GB>',
      'refuse a training whose estimated peak memory is above this',
      positiveNumber,
    )
    .action(async (path: string, overrides: string[], _options: unknown, command: Command) => {
      const {backend, dryRun, memoryBudget, import: extensions} = command.optsWithGlobals<TrainOptions>();
      const recipe = await loadRecipe(path, overrides);
      const options = {
        backend,
        memoryBudget: memoryBudget === undefined ? undefined : Math.round(memoryBudget * 1e9),
        commandWith: (...more: string[]) => commandWith(argsOf(command), ...more),
      };
      if (dryRun) {
        console.log(formatPlan(await planRecipe(recipe, options)));
        return;
      }
      const interrupt = stopOnInterrupt();
      const before = setWarningHandler((message) => printAboveProgress(process.stderr, message));
      try {
        const {isInterrupted} = await trainRecipe(recipe, {
          ...options,
          signal: interrupt.signal,
          print: (text) => console.log(text),
        });
        if (isInterrupted) throw new ExitStatus(STOPPED);
        if (recipe.tasks.train) {
          const given = {backend, import: extensions, path, overrides};
          console.log(await nextCommands(recipe, given));
        }
      } finally {
        interrupt.release();
        setWarningHandler(before);
      }
    });
  withExamples(
    train,
    ['tfjs-lora train recipe.yaml --dry-run', 'show what the recipe would do, and the memory it needs'],
    ['tfjs-lora train recipe.yaml lora_rank=16 num_train_epochs=1', 'run it with other values'],
    ['tfjs-lora train recipe.yaml resume_from_checkpoint=true', 'continue a run that was stopped'],
  );
}

/** Returns the arguments of the program. */
function argsOf({parent}: Command): string[] {
  return (parent as Command & {rawArgs: string[]}).rawArgs;
}

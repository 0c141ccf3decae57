import type {Command} from 'commander';
import {clusterPlace} from '../../../training/cluster/clusterPlace.ts';
import {ranks} from '../../../training/cluster/ranks.ts';
import {formatPlan} from '../../recipes/formatPlan.ts';
import {planRecipe} from '../../recipes/planRecipe.ts';
import {loadRecipe, type Recipe} from '../../recipes/recipe.ts';
import {type RunOptions, trainRecipe} from '../../recipes/trainRecipe.ts';
import {type CommonOptions, positiveNumber} from '../commandOptions.ts';
import {commandWith} from '../commandWith.ts';
import {ExitStatus, STOPPED} from '../exitStatus.ts';
import {nextCommands} from '../nextCommands.ts';
import {type ProcessCount, processCount, processesToStart} from '../processCount.ts';
import {runOnRanks} from '../runOnRanks.ts';
import {stopOnInterrupt} from '../stopOnInterrupt.ts';
import {withExamples} from '../withExamples.ts';

interface TrainOptions extends CommonOptions {
  dryRun: boolean;
  memoryBudget?: number;
  processes?: ProcessCount;
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
    .option(
      '--processes <count>',
      'number of cards of this host to train on, with one process each; auto: all',
      processCount,
    )
    .action(async (path: string, overrides: string[], _options: unknown, command: Command) => {
      const {
        backend,
        dryRun,
        memoryBudget,
        processes,
        import: extensions,
      } = command.optsWithGlobals<TrainOptions>();
      const recipe = await loadRecipe(path, overrides);
      const count = clusterPlace(process.env) ? 1 : await processesToStart(processes, process.env);
      if (count > 1) {
        const status = await runOnRanks(count, argsOf(command), recipe.cluster.timeout);
        if (status !== 0) throw new ExitStatus(status);
        return;
      }
      const options = {
        backend,
        memoryBudget: memoryBudget === undefined ? undefined : Math.round(memoryBudget * 1e9),
        commandWith: (...more: string[]) => commandWith(argsOf(command), ...more),
      };
      if (dryRun) {
        const plan = await planRecipe(recipe, options);
        if (ranks().isFirst) console.log(formatPlan(plan));
        return;
      }
      await trainUntilStopped(recipe, options);
      if (recipe.tasks.train && ranks().isFirst) {
        const given = {backend, import: extensions, path, overrides};
        console.log(await nextCommands(recipe, given));
      }
    });
  withExamples(
    train,
    ['tfjs-lora train recipe.yaml --dry-run', 'show the plan and the memory it needs'],
    ['tfjs-lora train recipe.yaml lora_rank=16 num_train_epochs=1', 'override two keys of the recipe'],
    ['tfjs-lora train recipe.yaml resume_from_checkpoint=true', 'continue a run that was stopped'],
  );
}

/** Trains; the first Ctrl-C stops the run after its step. @throws ExitStatus when the run was stopped */
async function trainUntilStopped(recipe: Recipe, options: RunOptions): Promise<void> {
  const interrupt = stopOnInterrupt();
  try {
    const {isInterrupted} = await trainRecipe(recipe, {
      ...options,
      signal: interrupt.signal,
      print: (text) => console.log(text),
    });
    if (isInterrupted) throw new ExitStatus(STOPPED);
  } finally {
    interrupt.release();
  }
}

/** Returns the arguments of the program. */
function argsOf({parent}: Command): string[] {
  return (parent as Command & {rawArgs: string[]}).rawArgs;
}

import {trainedRecipe} from '../recipes/modelInUse.ts';
import type {Recipe} from '../recipes/recipe.ts';
import type {CommonOptions} from './commandOptions.ts';
import {commandLine} from './commandWith.ts';

/** Keys that only matter for training, and the adapter to start from. */
const ONLY_TRAINING = /^(adapter_name_or_path|overwrite_output_dir|resume_from_checkpoint)=/;

/**
 * Returns the commands that use the result of a finished training, for a terminal.
 *
 * @param given backend, extensions, path of the recipe, and `key=value` overrides of the command that trained
 */
export async function nextCommands(
  recipe: Recipe,
  {
    backend,
    import: extensions,
    path,
    overrides,
  }: Pick<CommonOptions, 'backend' | 'import'> & {path: string; overrides: readonly string[]},
): Promise<string> {
  const {model, method, splits, fit, data, export: exporting} = recipe;
  const adapters = (await trainedRecipe(recipe)).model.adapters.join(',');
  const used = [
    path,
    ...overrides.filter((override) => !ONLY_TRAINING.test(override)),
    ...(model.adaptersAreArgument ? [`adapter_name_or_path=${adapters}`] : []),
  ];
  const merged = [
    ...(exporting.exportDir === undefined ? [`export_dir=${fit.outputDir}-merged`] : []),
    ...(model.quantization ? ['quantization_bit=null'] : []),
  ];
  const chosen = [
    ...(backend === 'auto' ? [] : ['--backend', backend]),
    ...extensions.flatMap((module) => ['--import', module]),
  ];
  const commands = [
    ...(data.stage === 'rm' ? [] : [['chat', ...used]]), // a reward model rates answers
    ...(splits.evaluationDataset.length > 0 || splits.valSize > 0 ? [['eval', ...used]] : []),
    ...(method === 'lora' ? [['export', ...used, ...merged]] : []),
  ];
  return ['next:', ...commands.map((words) => `  ${commandLine(...chosen, ...words)}`)].join('\n');
}

/**
 * `tfjs-lora/recipes`, in Node: functions that do what the command line does with LLaMA-Factory's recipes.
 *
 * @module tfjs-lora/recipes
 */
export {
  type BenchmarkRecipeOptions,
  benchmarkRecipe,
  compareRecipe,
  type EvaluateOptions,
  evaluateRecipe,
  type RecipeEvaluation,
} from './evaluateRecipe.ts';
export {type ExportArgs, type ExportProgress, type ExportResult, exportModel} from './exportModel.ts';
export {formatPlan} from './formatPlan.ts';
export type {RecipePlan} from './planOf.ts';
export {planRecipe} from './planRecipe.ts';
export type {PrepareOptions} from './prepareRecipe.ts';
export {loadRecipe, type Method, type Recipe} from './recipe.ts';
export {type RunOptions, trainRecipe} from './trainRecipe.ts';

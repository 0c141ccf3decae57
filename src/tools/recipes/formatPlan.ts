import {counted} from '../../../quant/counted.ts';
import {ranks} from '../../training/cluster/ranks.ts';
import {formatBytes} from '../../training/run/formatBytes.ts';
import {describeModel} from './modelInUse.ts';
import type {ExampleCounts, LongestRows, RecipePlan} from './planOf.ts';

type Row = [name: string, text: string];

/** Formats a plan as lines for a terminal. The first ones name the backend and why it was chosen. */
export function formatPlan(plan: RecipePlan): string {
  const {recipe, parameters, data, resumeFrom, overwrites, isFinished} = plan;
  const rows: Row[] = [
    ['model', `${nameOf(plan)}, ${many(parameters.total, 'parameter')}`],
    ...trainingRows(plan),
  ];
  if (data.validation) rows.push(['evaluation', describeExamples(data.validation)]);
  if (data.validationPrompts !== undefined) {
    const {maxNewTokens} = recipe.generation;
    const answers = `${many(data.validationPrompts, 'answer')} of at most ${many(maxNewTokens, 'token')}`;
    rows.push(['scores', `${answers} at each evaluation`]);
  }
  if (data.prompts !== undefined) rows.push(['prediction', many(data.prompts, 'prompt')]);
  if (recipe.fit.outputDir !== undefined) rows.push(['output', recipe.fit.outputDir]);
  if (overwrites) rows.push(['overwrites', `${overwrites.what}: ${overwrites.names.join(', ')}`]);
  if (resumeFrom !== false) rows.push([isFinished ? 'finished at' : 'resumes from', resumeFrom]);
  if (recipe.ignored.size > 0) {
    rows.push(['ignored', [...recipe.ignored].map(([key, reason]) => `${key} (${reason})`).join(', ')]);
  }
  const width = Math.max(...rows.map(([name]) => name.length));
  return [plan.backend, ...rows.map(([name, text]) => `${name.padEnd(width)}  ${text}`)].join('\n');
}

/** Returns the name of the model, with its adapters if nothing trains. */
function nameOf({recipe, steps}: RecipePlan): string {
  const {nameOrPath, adapters} = recipe.model;
  return steps || adapters.length === 0 ? nameOrPath : describeModel(recipe);
}

function trainingRows(plan: RecipePlan): Row[] {
  const {recipe, parameters, data, steps, trainedTokens, memory, longestRows} = plan;
  if (!steps) return [];
  const {
    fit: {batchSize, gradientAccumulationSteps},
    compile: {schedule},
    optimizer,
  } = recipe;
  const {trainable, total} = parameters;
  const {size} = ranks();
  const examples = data.training ? describeExamples(data.training) : 'streamed examples';
  const perEpoch = steps.perEpoch === undefined ? '' : `, ${count(steps.perEpoch)} an epoch`;
  const window = counted(batchSize * gradientAccumulationSteps * size, 'example', () =>
    [batchSize, gradientAccumulationSteps, ...(size > 1 ? [`${size} ranks`] : [])].join(' × '),
  );
  const rows: Row[] = [
    ['trains', `${many(trainable, 'parameter')} (${percent(trainable / total)}): ${describeMethod(plan)}`],
    ['data', `${examples}, from ${recipe.splits.dataset.join(', ')}`],
    ['steps', `${count(steps.total)} of ${window}${perEpoch}`],
    [
      'learning rate',
      `${optimizer.learningRate}, ${schedule.name}, ${many(steps.warmup, 'step')} of warm-up, ${optimizer.name}`,
    ],
  ];
  if (trainedTokens !== undefined) rows.push(['tokens', `${count(trainedTokens)} in the whole run`]);
  if (memory) {
    const {total: bytes, ...parts} = memory;
    const present = Object.entries(parts).filter(([, part]) => part > 0);
    const listed = present.map(([name, part]) => `${name} ${formatBytes(part)}`).join(', ');
    rows.push(['memory', `about ${formatBytes(bytes)}: ${listed}`]);
  }
  if (longestRows?.length) rows.push(['longest rows', describeLongest(longestRows)]);
  return rows;
}

function describeLongest(rows: LongestRows[]): string {
  const fitting = rows.map(({memory, tokens}) =>
    tokens > 0 ? `${many(tokens, 'token')} in ${formatBytes(memory)}` : `none in ${formatBytes(memory)}`,
  );
  const sources = {
    budget: 'the memory budget',
    card: "nine tenths of the card's memory",
    wasm: 'all that wasm can have; other backends have more',
    example: 'nine tenths of common cards; set your own with --memory-budget',
  };
  return `${fitting.join(', ')} (${sources[rows[0].source]})`;
}

function describeMethod({recipe: {method, model, lora, freeze}}: RecipePlan): string {
  if (method === 'full') return 'all weights';
  if (method === 'freeze') {
    return `${freeze.blocks > 0 ? 'the last' : 'the first'} ${counted(Math.abs(freeze.blocks), 'block')}`;
  }
  const base = model.quantization ? `, the base in ${model.quantization.type}` : '';
  if (model.adapters.length > 0 && !model.createNewAdapter) return `adapter ${model.adapters.at(-1)}${base}`;
  const {rank, alpha, targetModules, modulesToSave = [], useDoRA, layerClass} = lora;
  const named = Array.isArray(targetModules) ? targetModules.join(', ') : targetModules;
  const targets = [named, ...(modulesToSave.length > 0 ? [`all of ${modulesToSave.join(', ')}`] : [])].join(
    ', and ',
  );
  if (layerClass) return `${layerClass.adapterClass.peftType} of rank ${rank}, on ${targets}${base}`;
  return `${useDoRA ? 'DoRA' : 'LoRA'} of rank ${rank}, alpha ${alpha}, on ${targets}${base}`;
}

function describeExamples({examples, tokens, targets, longest}: ExampleCounts): string {
  return `${many(examples, 'example')}, ${many(tokens, 'token')}, ${count(targets)} of them learned, at most ${count(longest)} in one`;
}

const count = (value: number): string => value.toLocaleString('en-US');
const many = (value: number, noun: string): string => counted(value, noun, count);
const percent = (share: number): string => `${(100 * share).toPrecision(3)} %`;

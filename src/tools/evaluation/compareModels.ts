import {basename, join, resolve} from 'node:path';
import type {QuantizationType} from '../../../layers/quantizationArgs.ts';
import {readJson} from '../../../models/jsonFile.ts';
import {countParameters} from '../../../models/summary.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {quantizingNames} from '../../../quant/quantizerRegistry.ts';
import type {TrainingData} from '../../data/batches/batches.ts';
import type {PromptExample} from '../../data/preprocessing/promptExample.ts';
import {
  PREDICT_OPTIONS,
  type PredictOptions,
  predictDataset,
} from '../../training/prediction/predictDataset.ts';
import type {PredictionScores} from '../../training/prediction/predictionScores.ts';
import {formatBytes} from '../../training/run/formatBytes.ts';
import type {TrainableCausalLM} from '../../training/trainable.ts';

/** The prefix of a candidate whose base is not quantized, although the fallback is. */
const PLAIN = 'none';

/** A model to compare: the base alone or with an adapter, quantized or not. */
export interface Candidate {
  label: string;
  /** PEFT folder. Default none: the base alone. */
  adapter?: string;
  /** Type to which the base is quantized. Default: not quantized. */
  quantization?: QuantizationType;
}

/** The results of one model in a comparison. */
export interface Comparison extends Candidate {
  scores: PredictionScores;
  loss?: number;
  perplexity?: number;
  /** Rank of the adapter, if there is one. */
  rank?: number;
  /** Number of weights in the adapter; 0 for the base alone. */
  trainableParameters: number;
  /** Peak size of all tensors while answering, in bytes. */
  peakBytes: number;
  newTokens: number;
  seconds: number;
}

export interface CompareArgs {
  /** Loads the base for a candidate, quantized as the candidate says, without its adapter. */
  open: (candidate: Candidate) => Promise<TrainableCausalLM>;
  prompts: readonly PromptExample[];
  /** The same examples with labels, for loss and perplexity. Default: neither is measured. */
  examples?: TrainingData;
  options?: Omit<PredictOptions, 'outputDir' | 'onProgress' | 'signal'>;
  /** Returns the folder for a candidate's predictions. Default: they are not written. */
  outputDirOf?: (candidate: Candidate, index: number) => string;
  onProgress?: (
    candidate: Candidate,
    progress: Parameters<NonNullable<PredictOptions['onProgress']>>[0],
  ) => void;
  /** Stops the comparison, with the signal's reason as the error. */
  signal?: AbortSignal;
}
const COMPARE_OPTIONS = {
  open: true,
  prompts: true,
  examples: true,
  options: true,
  outputDirOf: true,
  onProgress: true,
  signal: true,
} satisfies OptionNames<CompareArgs>;

/**
 * Answers the same prompts with each candidate and scores the answers, to show the effect of training. Only one model
 * is in memory at a time.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` without candidates; otherwise as `predictDataset` and loading do
 */
export async function compareModels(
  candidates: readonly Candidate[],
  args: CompareArgs,
): Promise<Comparison[]> {
  if (candidates.length === 0) {
    throw new TfjsLoraError('INVALID_ARGUMENT', 'compareModels: expected at least one candidate, got none');
  }
  for (const {adapter} of candidates) {
    if (adapter !== undefined) await readJson(join(adapter, 'adapter_config.json')); // finds wrong folders early
  }
  assertKnownOptions('compareModels', args, COMPARE_OPTIONS);
  assertKnownOptions('compareModels options', args.options, PREDICT_OPTIONS);
  const {open, prompts, examples, options, outputDirOf, onProgress, signal} = args;
  const comparisons: Comparison[] = [];
  for (const [index, candidate] of candidates.entries()) {
    signal?.throwIfAborted();
    const model = await open(candidate);
    try {
      if (candidate.adapter !== undefined)
        await model.loadAdapter(candidate.adapter, {trainable: true, signal});
      const {scores, peakBytes, newTokens, seconds} = await predictDataset(model, prompts, {
        ...options,
        signal,
        outputDir: outputDirOf?.(candidate, index),
        onProgress: (progress) => onProgress?.(candidate, progress),
      });
      const evaluation =
        examples && (await model.evaluateDataset(examples, {batchSize: options?.batchSize, signal}));
      comparisons.push({
        ...candidate,
        scores,
        ...(evaluation && {loss: evaluation.loss, perplexity: evaluation.perplexity}),
        ...(candidate.adapter !== undefined && {rank: model.adapterOptions().rank}),
        trainableParameters: candidate.adapter === undefined ? 0 : countParameters(model).trainable,
        peakBytes,
        newTokens,
        seconds,
      });
    } finally {
      model.dispose();
    }
  }
  return comparisons;
}

/**
 * Parses a candidate: `base` or an adapter's folder, with the prefix `nf4:`, `fp4:`, `int8:` or the name of a
 * registered quantizer for a quantized base, and before it an optional `label=`. Examples: `base`, `saves/lora`, `nf4:saves/qlora`, `rank 16=saves/lora16`.
 *
 * @param fallback quantization of the base if the text has no prefix; the prefix `none:` then means an unquantized base
 * @throws TfjsLoraError `INVALID_ARGUMENT` when the folder is missing or the label is empty
 */
export function parseCandidate(text: string, fallback?: Candidate['quantization']): Candidate {
  const [, ownLabel, rest] = /^(?:([^=]*)=)?(.*)$/s.exec(text) as unknown as [
    string,
    string | undefined,
    string,
  ];
  const named = [...quantizingNames(), PLAIN].find((type) => rest.startsWith(`${type}:`));
  const target = named === undefined ? rest : rest.slice(named.length + 1);
  const quantization = named === undefined ? fallback : named === PLAIN ? undefined : named;
  if (target === '' || ownLabel === '') {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `--compare ${text || '""'}: expected base or the folder of an adapter, optionally after ${quantizingNames().join(':, ')}: or ` +
        `none: and a label with =, got ${target === '' ? 'none' : 'an empty label'}. Example: base saves/lora nf4:saves/qlora`,
    );
  }
  if (quantizingNames().includes(target)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `--compare ${text}: expected base or the folder of an adapter, got a format. Write ${target}:base, or ./${target} ` +
        'for a folder of this name.',
    );
  }
  const isBase = target === 'base';
  const kind = isBase ? 'Before fine-tuning' : quantization === undefined ? 'LoRA' : 'QLoRA';
  const suffix = quantization === undefined ? '' : ` (${quantization})`;
  const label = ownLabel ?? `${kind}${suffix}${isBase ? '' : `: ${basename(resolve(target))}`}`;
  return {label, ...(!isBase && {adapter: target}), ...(quantization && {quantization})};
}

/** Returns LLaMA-Factory's scores under their names in tables and plots. */
export function guideScores({llamaFactory}: PredictionScores): Record<string, number> {
  return {
    'BLEU-4': llamaFactory['bleu-4'],
    'ROUGE-1': llamaFactory['rouge-1'],
    'ROUGE-2': llamaFactory['rouge-2'],
    'ROUGE-L': llamaFactory['rouge-l'],
  };
}

/**
 * Makes two Markdown tables: LLaMA-Factory's scores with rank, trainable parameters and memory, as its guides print
 * them, and the standard English scores.
 */
export function comparisonTable(comparisons: readonly Comparison[]): string {
  const hasPerplexity = comparisons.some(({perplexity}) => perplexity !== undefined);
  const guide = comparisons.map((comparison) => [
    comparison.label,
    ...Object.values(guideScores(comparison.scores)).map(twoPlaces),
    ...(hasPerplexity ? [comparison.perplexity === undefined ? '-' : twoPlaces(comparison.perplexity)] : []),
    comparison.rank === undefined ? '-' : String(comparison.rank),
    comparison.adapter === undefined ? '-' : comparison.trainableParameters.toLocaleString('en-US'),
    formatBytes(comparison.peakBytes),
  ]);
  const standard = comparisons.map(({label, scores: {standard: scores}}) => [
    label,
    ...[scores.bleu, scores.rouge1, scores.rouge2, scores.rougeL, scores.rougeLsum].map(twoPlaces),
  ]);
  const perplexity = hasPerplexity ? ['Perplexity'] : [];
  return [
    "LLaMA-Factory's scores (BLEU of characters, ROUGE of jieba words):\n",
    ...markdown([
      [
        '',
        'BLEU-4',
        'ROUGE-1',
        'ROUGE-2',
        'ROUGE-L',
        ...perplexity,
        'LoRA rank',
        'Trainable parameters',
        'Memory',
      ],
      ...guide,
    ]),
    '\nStandard English scores (sacreBLEU, rouge_score with stemmer):\n',
    ...markdown([['', 'BLEU', 'ROUGE-1', 'ROUGE-2', 'ROUGE-L', 'ROUGE-Lsum'], ...standard]),
    '\nMemory: peak of all tensors while answering, with weights and key-value cache.',
  ].join('\n');
}

const twoPlaces = (value: number): string => value.toFixed(2);

/** Makes a Markdown table with aligned columns, so that it is also easy to read in a terminal. */
function markdown(rows: string[][]): string[] {
  const cells = rows.map((row) => row.map((cell) => cell.replaceAll('|', '\\|')));
  const widths = cells[0].map((_, column) => Math.max(3, ...cells.map((row) => row[column].length)));
  const line = (row: string[]) =>
    `| ${row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column]))).join(' | ')} |`;
  const rule = `| ${widths.map((width, column) => (column === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`)).join(' | ')} |`;
  return [line(cells[0]), rule, ...cells.slice(1).map(line)];
}

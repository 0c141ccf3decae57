import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {plotLosses} from '../plots/lossesPlot.ts';
import {
  finitePoints,
  type Losses,
  type LossHistory,
  type LossPlotOptions,
  lossesOf,
  plotLoss,
} from '../plots/lossPlot.ts';
import {display} from './notebookDisplay.ts';
import {RichOutput} from './richOutput.ts';

/** One run of several. */
export interface LabeledRun {
  label: string;
  history: Losses;
}

export type ShowLossOptions = Pick<LossPlotOptions, 'title' | 'subtitle' | 'width' | 'height'>;
const SHOW_LOSS_OPTIONS = {
  title: true,
  subtitle: true,
  width: true,
  height: true,
} satisfies OptionNames<ShowLossOptions>;

/**
 * Plots the loss of one run, or of several runs together, in a notebook; see {@link plotLoss} and {@link plotLosses}.
 *
 * @param runs what `fitDataset` returned; of several runs, `{label, history}` each
 * @param options title, subtitle and size of the plot
 * @returns the plot, unless a tslab notebook has displayed it
 * @throws TfjsLoraError `INVALID_ARGUMENT` when a run has no finite training loss
 *
 * @example
 * ```ts
 * import {AdamW, Llama} from 'tfjs-lora';
 * import {showLoss} from 'tfjs-lora/notebook';
 *
 * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
 * model.applyLoRA({rank: 8});
 * model.compile({optimizer: new AdamW({learningRate: 1e-4})});
 * const records = [{prompt: 'Who founded Adaville?', completion: 'Ada did.'}];
 * await showLoss(await model.fitDataset(records, {epochs: 3}));
 * ```
 */
export async function showLoss(
  runs: Losses | readonly LabeledRun[],
  options: ShowLossOptions = {},
): Promise<RichOutput | undefined> {
  assertKnownOptions('showLoss', options, SHOW_LOSS_OPTIONS);
  if (!isList(runs)) {
    const history = lossesOf(runs);
    const svg = await plotLoss(history, undefined, options);
    return display(new RichOutput('image/svg+xml', svg, textOf(history)));
  }
  const losses = runs.map(({label, history}) => ({label, ...lossesOf(history)}));
  const svg = await plotLosses(losses, undefined, options);
  const text = losses.map((run) => `${run.label}: ${textOf(run)}`).join('\n');
  return display(new RichOutput('image/svg+xml', svg, text));
}

const isList = (runs: Losses | readonly LabeledRun[]): runs is readonly LabeledRun[] => Array.isArray(runs);

function textOf({training, validation = []}: LossHistory): string {
  const [points, evaluations] = [finitePoints(training), finitePoints(validation)];
  const at = ({step, loss}: {step: number; loss: number}) => `${loss.toFixed(4)} at step ${step}`;
  const last = evaluations.at(-1);
  const end = points.length > 1 ? `, ${at(points[points.length - 1])}` : '';
  return `loss ${at(points[0])}${end}${last ? `, validation ${at(last)}` : ''}`;
}

import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show, wholeCharacters} from '../../../quant/show.ts';
import {escapeHtml} from './escapeHtml.ts';
import {display} from './notebookDisplay.ts';
import {RichOutput} from './richOutput.ts';

export interface SamplesOptions {
  /** Number of samples to show, from the first. Default 3. */
  count?: number;
  /** Characters of a text to show; the rest is an ellipsis. Default 600. */
  maxCharacters?: number;
}
const SAMPLES_OPTIONS = {count: true, maxCharacters: true} satisfies OptionNames<SamplesOptions>;

/**
 * Shows the texts of each sample one below the other in a notebook, such as a prompt, the reference, and a model's
 * answers before and after training.
 *
 * @param texts lists of texts by their label, such as `{reference, before, after}`; all lists have the same length
 * @returns the samples, unless a tslab notebook has displayed them
 * @throws TfjsLoraError `INVALID_ARGUMENT` when there is no text, or when a list is longer or shorter than the first
 *
 * @example
 * ```ts
 * import {showSamples} from 'tfjs-lora/notebook';
 *
 * showSamples({question: ['Who founded Adaville?'], before: ['A town.'], after: ['Ada did.']});
 * ```
 */
export function showSamples(
  texts: Readonly<Record<string, readonly string[]>>,
  options: SamplesOptions = {},
): RichOutput | undefined {
  assertKnownOptions('showSamples', options, SAMPLES_OPTIONS);
  const {count = 3, maxCharacters = 600} = options;
  const total = assertSameLength(texts);
  const shorten = (text: string) => {
    const start = wholeCharacters(text.trim(), maxCharacters);
    return start.length < text.trim().length ? `${start}…` : start;
  };
  const samples = Array.from({length: Math.min(count, total)}, (_, i) =>
    Object.entries(texts).map(([label, list]): [string, string] => [label, shorten(list[i])]),
  );
  return display(
    RichOutput.html(`<table>${samples.map(html).join('')}</table>`, samples.map(plainText).join('\n\n')),
  );
}

function assertSameLength(texts: Readonly<Record<string, readonly string[]>>): number {
  const [first, ...others] = Object.entries(texts);
  for (const [label, list] of Object.entries(texts)) {
    if (Array.isArray(list)) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `showSamples texts: expected lists of texts by label, for ${label} got ${show(list)}. Write {answer: [text, …]}.`,
    );
  }
  if (!first || first[1].length === 0) {
    throw new TfjsLoraError('INVALID_ARGUMENT', 'showSamples texts: expected at least one text, got none');
  }
  for (const [label, list] of others) {
    if (list.length === first[1].length) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `showSamples ${label}: expected ${first[1].length} texts, as many as in ${first[0]}, got ${list.length}`,
    );
  }
  return first[1].length;
}

function html(sample: [label: string, text: string][], index: number): string {
  const line = index === 0 ? '' : '; border-top: 2px solid #9aa3ad';
  const rows = sample.map(([label, text], i) => {
    const style = `text-align: left; vertical-align: top${i === 0 ? line : ''}`;
    return (
      `<tr><th style="${style}; white-space: nowrap">${escapeHtml(label)}</th>` +
      `<td style="${style}; white-space: pre-wrap">${escapeHtml(text)}</td></tr>`
    );
  });
  return `<tbody>${rows.join('')}</tbody>`;
}

function plainText(sample: [label: string, text: string][]): string {
  const width = Math.max(...sample.map(([label]) => label.length));
  return sample
    .map(([label, text]) => `${label.padEnd(width)}  ${text.replaceAll('\n', `\n${' '.repeat(width + 2)}`)}`)
    .join('\n');
}

import type {Tokenizer} from '../../../models/tokenizer.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {assertExample, type Example} from '../../data/batches/collate.ts';
import {learnedTokens} from '../../data/records/learnedTokens.ts';
import {escapeHtml} from './escapeHtml.ts';
import {display} from './notebookDisplay.ts';
import {RichOutput} from './richOutput.ts';

export interface TokensOptions {
  /** Number of tokens to show, from the first. Default 512. */
  maxTokens?: number;
}
const TOKENS_OPTIONS = {maxTokens: true} satisfies OptionNames<TokensOptions>;

/** Backgrounds of neighbouring tokens, which alternate, and the colour of their text. */
const LEARNED = {backgrounds: ['#bfe3c8', '#d9f0de'], color: '#123d20'};
const MASKED = {backgrounds: ['#e3e6ea', '#f0f2f4'], color: '#59626d'};

/** A token is at most this many bytes of a character, so that many tokens can make one character. */
const MAX_PIECES = 4;

/**
 * Shows an example's tokens in a notebook: learned tokens in green, and tokens that are only read in grey. Point at a
 * token to see its id. A label that is not the token itself is shown before it, in green.
 *
 * @param example token ids, such as `(await model.dataset(records)).examples[0]`
 * @param tokenizer the tokenizer that made the ids, such as `model.tokenizer`
 * @returns the tokens, unless a tslab notebook has displayed them. As text, learned parts are between `⟦` and `⟧`
 * @throws TfjsLoraError `INVALID_ARGUMENT` when it is no example of token ids
 *
 * @example
 * ```ts
 * import {Llama} from 'tfjs-lora';
 * import {showTokens} from 'tfjs-lora/notebook';
 *
 * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
 * const data = await model.dataset([{prompt: 'Who founded Adaville?', completion: 'Ada did.'}]);
 * showTokens(data.examples[0], model.tokenizer!);
 * ```
 */
export function showTokens(
  example: Example,
  tokenizer: Pick<Tokenizer, 'decode'>,
  options: TokensOptions = {},
): RichOutput | undefined {
  assertKnownOptions('showTokens', options, TOKENS_OPTIONS);
  assertExample(example, 0);
  const tokens = learnedTokens(example);
  const pieces = piecesOf(tokens.slice(0, options.maxTokens ?? 512), tokenizer);
  const learned = tokens.filter(({isLearned}) => isLearned).length;
  const title = `${learned} of ${tokens.length} tokens are learned`;
  const left = tokens.length - pieces.reduce((sum, {ids}) => sum + ids.length, 0);
  const rest = left > 0 ? ` … ${left} more tokens` : '';
  const legend = `${swatch('learned', LEARNED)} ${swatch('only read', MASKED)} ${title}`;
  const html = `<p>${legend}</p><pre style="white-space: pre-wrap">${pieces.map(box).join('')}${rest}</pre>`;
  return display(RichOutput.html(html, `${title}\n${marked(pieces)}${rest}`));
}

/** Text that cannot be divided further, and its tokens: usually one. */
interface Piece {
  ids: number[];
  text: string;
  isLearned: boolean;
}

function piecesOf(tokens: ReturnType<typeof learnedTokens>, tokenizer: Pick<Tokenizer, 'decode'>): Piece[] {
  const pieces: Piece[] = [];
  for (const {id, isLearned} of tokens) {
    const last = pieces.at(-1);
    // A token may be some of the bytes of a character, which decodes as U+FFFD until the rest has come.
    const isOpen =
      last?.text.endsWith('\ufffd') && last.isLearned === isLearned && last.ids.length < MAX_PIECES;
    if (last && isOpen) {
      last.ids.push(id);
      last.text = tokenizer.decode(last.ids);
    } else pieces.push({ids: [id], text: tokenizer.decode([id]), isLearned});
  }
  return pieces;
}

function box({ids, text, isLearned}: Piece, index: number): string {
  const {backgrounds, color} = isLearned ? LEARNED : MASKED;
  const tag = isLearned ? 'mark' : 'span'; // where a site removes styles, marked text stays marked
  const shown = escapeHtml(text).replaceAll('<br>', '↵<br>');
  const style = `background-color: ${backgrounds[index % 2]}; color: ${color}`;
  return `<${tag} title="${ids.join(' ')}" style="${style}">${shown}</${tag}>`;
}

const swatch = (label: string, {backgrounds, color}: typeof LEARNED): string =>
  `<span style="background-color: ${backgrounds[0]}; color: ${color}; padding: 0 0.4em">${label}</span>`;

function marked(pieces: Piece[]): string {
  const runs: Piece[] = [];
  for (const piece of pieces) {
    const last = runs.at(-1);
    if (last?.isLearned === piece.isLearned) last.text += piece.text;
    else runs.push({...piece});
  }
  return runs.map(({text, isLearned}) => (isLearned ? `⟦${text}⟧` : text)).join('');
}

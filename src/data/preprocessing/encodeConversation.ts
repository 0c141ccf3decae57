import {IGNORE_INDEX} from '../../../models/ignoreIndex.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {DatasetPlan} from '../datasets/datasetArgs.ts';
import type {Conversation} from '../templates/conversation.ts';
import {encodeTurns, eosTokenId} from '../templates/encodeTurns.ts';
import type {ResolvedTemplate} from '../templates/templateRegistry.ts';
import {truncatedLengths} from './truncatedLengths.ts';

/** Settings for encoding a conversation; plain data, as workers need it. */
export interface EncodeSettings {
  /** `sft` joins prompt and answer; `prompt` keeps them apart, for generation; `pt` encodes the bare text. */
  task: 'sft' | 'prompt' | 'pt';
  template: ResolvedTemplate;
  /** Maximum number of tokens to keep. */
  cutoffLength: number;
  trainOnPrompt: boolean;
  maskHistory: boolean;
  /** Whether `pt` keeps the whole text, for packing. */
  packing: boolean;
}

/** Returns a plan's settings for encoding conversations. */
export function encodeSettings(plan: DatasetPlan, task: EncodeSettings['task']): EncodeSettings {
  const {template, cutoffLength, trainOnPrompt, maskHistory, packLength} = plan;
  return {task, template, cutoffLength, trainOnPrompt, maskHistory, packing: packLength !== undefined};
}

/** Token ids of a conversation, and the labels: the targets for `sft`, the answer for `prompt`. */
export interface EncodedConversation {
  inputIds: number[];
  labels: number[];
}

/** Returns why a conversation yields no example, or undefined. */
export function faultOf({fault, response}: Conversation, {task}: EncodeSettings): string | undefined {
  return fault ?? (task === 'sft' && !response ? 'expected an answer to learn, got none' : undefined);
}

/** Returns why token ids cannot be trained on, or undefined. */
export function lengthFault({labels}: EncodedConversation): string | undefined {
  if (labels.some((label, t) => t > 0 && label !== IGNORE_INDEX)) return undefined;
  return 'expected tokens to learn, got none (within the cut)';
}

/** Encodes a conversation as token ids, as LLaMA-Factory does; returns undefined for a faulty one. */
export function encodeConversation(
  conversation: Conversation,
  tokenizer: Tokenizer,
  settings: EncodeSettings,
): EncodedConversation {
  if (faultOf(conversation, settings)) return {inputIds: [], labels: []};
  try {
    switch (settings.task) {
      case 'sft':
        return supervised(conversation, tokenizer, settings);
      case 'prompt':
        return promptAndAnswer(conversation, tokenizer, settings);
      case 'pt':
        return plainText(conversation, tokenizer, settings);
    }
  } catch (error) {
    if (!(error instanceof TfjsLoraError)) throw error;
    throw new TfjsLoraError(error.code, `${conversation.source}: ${error.message}`, {cause: error});
  }
}

/**
 * Encodes turns. Each prompt and answer share the room that earlier turns have left, or later ones, if some answers are
 * only context.
 */
function supervised(
  {prompt, response, system, tools, unlearnedAnswers = 0}: Conversation,
  tokenizer: Tokenizer,
  {template, cutoffLength, trainOnPrompt, maskHistory}: EncodeSettings,
): EncodedConversation {
  const scope = maskHistory ? 'last' : 'all';
  const turns = encodeTurns(template, tokenizer, response ? [...prompt, response] : prompt, {
    system,
    tools,
    scope,
  });
  const pairs = turns.flatMap((ids, i) => (i % 2 === 0 ? [{source: ids, target: turns[i + 1]}] : []));
  const unlearned = maskHistory ? pairs.length - 1 : trainOnPrompt ? 0 : unlearnedAnswers;
  if (unlearned > 0) pairs.reverse();
  const closing = template.kind === 'slots' && template.template.efficientEos;
  const eos = closing ? requireEos(template, tokenizer) : undefined;
  const parts: EncodedConversation[] = [];
  let length = closing ? 1 : 0;
  for (const [i, {source, target}] of pairs.entries()) {
    if (length >= cutoffLength) break;
    const kept = truncatedLengths(source.length, target.length, cutoffLength - length);
    length += kept.source + kept.target;
    const sourceIds = source.slice(0, kept.source);
    const targetIds = target.slice(0, kept.target);
    const sourceLabels = trainOnPrompt ? sourceIds : sourceIds.map(() => IGNORE_INDEX);
    if (eos !== undefined && i > 0 && !trainOnPrompt && sourceLabels.length > 0) sourceLabels[0] = eos;
    const isContext = unlearned > 0 && i >= pairs.length - unlearned;
    const targetLabels = isContext ? targetIds.map(() => IGNORE_INDEX) : targetIds;
    parts.push({inputIds: [...sourceIds, ...targetIds], labels: [...sourceLabels, ...targetLabels]});
  }
  if (unlearned > 0) parts.reverse();
  if (eos !== undefined) parts.push({inputIds: [eos], labels: [eos]});
  return {
    inputIds: parts.flatMap(({inputIds}) => inputIds),
    labels: parts.flatMap(({labels}) => labels),
  };
}

function promptAndAnswer(
  {prompt, response, system, tools}: Conversation,
  tokenizer: Tokenizer,
  {template, cutoffLength}: EncodeSettings,
): EncodedConversation {
  const context = {system, tools, scope: 'one' as const};
  const turns = encodeTurns(template, tokenizer, response ? [...prompt, response] : prompt, context);
  const answer = response ? (turns.pop() as number[]) : [];
  const source = turns.flat();
  if (template.kind === 'slots' && template.template.efficientEos)
    answer.push(requireEos(template, tokenizer));
  const kept = truncatedLengths(source.length, answer.length, cutoffLength);
  return {inputIds: source.slice(0, kept.source), labels: answer.slice(0, kept.target)};
}

/** Encodes plain text, closed by the end of sequence; all of it is trained on. */
function plainText(
  {prompt}: Conversation,
  tokenizer: Tokenizer,
  {template, cutoffLength, packing}: EncodeSettings,
): EncodedConversation {
  // LLaMA-Factory closes plain text with this token where the llama3 template would close a turn.
  const endOfText =
    template.kind === 'slots' && template.template.name === 'llama3'
      ? tokenizer.tokenToId('<|end_of_text|>')
      : undefined;
  const eos = tokenizer.idToToken(endOfText ?? requireEos(template, tokenizer)) as string;
  const ids = tokenizer.encode(prompt[0].content + eos, {addSpecialTokens: false});
  const bos = !packing && tokenizer.addsBosToken ? tokenizer.bosTokenId : undefined;
  const inputIds = [...(bos === undefined ? [] : [bos]), ...ids];
  if (!packing) inputIds.length = Math.min(inputIds.length, cutoffLength);
  return {inputIds, labels: inputIds};
}

function requireEos(template: ResolvedTemplate, tokenizer: Tokenizer): number {
  const id = eosTokenId(template, tokenizer);
  if (id !== undefined) return id;
  throw new TfjsLoraError(
    'VOCABULARY_MISMATCH',
    'template: expected a tokenizer with an end-of-sequence token, got one without. ' +
      'Name it as eos_token in tokenizer_config.json.',
  );
}

import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import type {Answer} from './answerPrompts.ts';
import type {RolloutModel} from './rollouts.ts';

/**
 * Rates the answers to one prompt.
 *
 * @param prompt text of the record's prompt; messages are rendered with the chat template
 * @param answers texts without special tokens
 * @param record the record, whose other keys may hold the solution
 * @returns a number for each answer; null where the function does not apply
 */
export type RewardFunction = {
  // TypeScript lets the function of a method's type declare the record's own keys.
  rate(
    prompt: string,
    answers: string[],
    record: Record<string, unknown>,
  ): (number | null)[] | Promise<(number | null)[]>;
}['rate'];

/**
 * Has a function rate the answers to one prompt.
 *
 * @param name of the function, for messages
 * @throws TfjsLoraError `INVALID_ARGUMENT` when it does not return a number or null for each; what it throws
 */
export async function rate(
  name: string,
  reward: RewardFunction,
  model: RolloutModel,
  answers: Answer[],
): Promise<(number | null)[]> {
  const texts = answers.map(({text}) => text);
  const rewards: unknown = await reward(promptText(model, answers[0]), texts, answers[0].prompt.record ?? {});
  const isNumber = (value: unknown) => value === null || Number.isFinite(value);
  if (Array.isArray(rewards) && rewards.length === answers.length && rewards.every(isNumber)) return rewards;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `rewards ${name}: expected ${answers.length} numbers or nulls, one for each answer, got ${show(rewards)}`,
  );
}

/** Returns the text of an answer's prompt. */
export const promptText = ({tokenizer}: RolloutModel, {prompt: {record, inputIds}}: Answer): string =>
  typeof record?.prompt === 'string' ? record.prompt : tokenizer!.decode(inputIds);

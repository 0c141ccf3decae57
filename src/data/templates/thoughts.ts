import type {Tokenizer} from '../../../models/tokenizer.ts';
import type {Message, Template} from './template.ts';

/** How a template of a reasoning model treats the thoughts in answers. */
export interface ThoughtOptions {
  /**
   * Whether answers begin with thoughts; those without any get empty ones. With false, all thoughts are left out, and the
   * empty ones belong to the prompt. Default true.
   */
  enableThinking?: boolean;
  /** Whether answers before the last keep their thoughts where only the last is learned. Default false. */
  preserveThinking?: boolean;
}

/** Which answers count, of those whose thoughts are removed or added. */
export type ThoughtScope = 'all' | 'last' | 'one';

/** Messages with the thoughts that they keep, and those before which the template writes empty thoughts. */
export interface ThoughtfulMessages {
  messages: Message[];
  /** Whether empty thoughts end a message's prompt, by the index of the answer, which may be still to come. */
  inPrompt: Set<number>;
  /** Whether empty thoughts begin an answer, by its index. */
  inAnswer: Set<number>;
}

/**
 * Removes and adds thoughts as LLaMA-Factory's `ReasoningTemplate` does.
 *
 * @param messages alternate between prompts and answers
 * @param scope `all` if each answer is learned, `last` if only the last is, in a list of all turns; `one` if the last is an
 *   answer to one prompt, which is all before it
 */
export function withThoughts(
  messages: readonly Message[],
  {thoughtWords}: Pick<Template, 'thoughtWords'>,
  {enableThinking = true, preserveThinking = false}: ThoughtOptions,
  scope: ThoughtScope,
): ThoughtfulMessages {
  const [inPrompt, inAnswer] = [new Set<number>(), new Set<number>()];
  if (thoughtWords.length === 0) return {messages: [...messages], inPrompt, inAnswer};
  const last = messages.length % 2 === 0 ? messages.length - 1 : messages.length; // the answer may be still to come
  const isForgetful = scope !== 'all' && !preserveThinking;
  const isWithout = (i: number) =>
    i === last ? !enableThinking : isForgetful || (!enableThinking && scope !== 'one');
  const kept = messages.map((message, i) =>
    i % 2 === 1 && isWithout(i)
      ? {...message, content: withoutThoughts(message.content, thoughtWords)}
      : message,
  );
  for (let i = isForgetful || scope === 'one' ? last : 1; i <= last; i += 2) {
    if (thoughtWords.some((word) => kept[i]?.content.includes(word.trim()))) continue;
    (enableThinking ? inAnswer : inPrompt).add(i);
  }
  return {messages: kept, inPrompt, inAnswer};
}

function withoutThoughts(content: string, [begin, end]: string[]): string {
  let rest = content;
  for (let from = rest.indexOf(begin); from >= 0; from = rest.indexOf(begin, from)) {
    const to = rest.indexOf(end, from + begin.length);
    if (to < 0) break;
    rest = rest.slice(0, from) + rest.slice(to + end.length);
  }
  return rest.replace(/^\n+/, '');
}

/** Whether a tokenizer's chat template is one of a reasoning model: whether its answers contain `<think>`. */
export function writesThoughts(tokenizer: Tokenizer): boolean {
  const turn = tokenizer.applyChatTemplate([
    {role: 'user', content: 'question'},
    {role: 'assistant', content: 'answer'},
  ]);
  return turn.includes('<think>');
}

import type {TokenizerFiles} from '../../../models/tokenizerFiles.ts';

/** A step of a `tokenizer.json`. */
interface Step {
  type?: string;
  behavior?: string;
  pattern?: {String?: string};
  content?: string;
  normalizers?: Step[];
  pretokenizers?: Step[];
}

/**
 * The most bytes of a text that one token can stand for. A text of more bytes than a model's positions times this cannot
 * fit it, which is known without tokenizing the text.
 *
 * @returns undefined where no length is sure: a step before the vocabulary may shorten the text, or an unknown token stand for
 *   any length of it
 */
export function longestToken({tokenizer, config}: TokenizerFiles): number | undefined {
  const model = tokenizer.model as {
    type?: string;
    vocab: Record<string, number>;
    unk_token?: string | null;
    fuse_unk?: boolean;
    byte_fallback?: boolean;
  };
  const added = (tokenizer.added_tokens ?? []) as {content: string; lstrip?: boolean; rstrip?: boolean}[];
  const [normalizer, preTokenizer] = [tokenizer.normalizer, tokenizer.pre_tokenizer] as (
    | Step
    | null
    | undefined
  )[];
  const hasEveryByte = model.byte_fallback || stepsOf(preTokenizer).some(({type}) => type === 'ByteLevel');
  const isSure =
    model.type === 'BPE' &&
    (hasEveryByte || (model.unk_token != null && !model.fuse_unk)) &&
    stepsOf(normalizer).every(keepsLength) &&
    stepsOf(preTokenizer).every(keepsText) &&
    !added.some(({lstrip, rstrip}) => lstrip || rstrip) &&
    !config.remove_space &&
    !config.do_lowercase_and_remove_accent;
  if (!isSure) return undefined;
  // At least as many bytes as the text: a vocabulary spells each byte, or each space, with one character or more.
  let longest = 4; // of a character that is unknown
  for (const token of [...Object.keys(model.vocab), ...added.map(({content}) => content)]) {
    longest = Math.max(longest, Buffer.byteLength(token));
  }
  return longest;
}

/** A step, or those it is a sequence of. */
function stepsOf(step: Step | null | undefined): Step[] {
  if (!step) return [];
  const inner = step.normalizers ?? step.pretokenizers;
  return step.type === 'Sequence' && inner ? inner.flatMap(stepsOf) : [step];
}

function keepsLength({type, pattern, content = ''}: Step): boolean {
  if (type === 'Prepend') return true;
  return (
    type === 'Replace' && pattern?.String !== undefined && byteLength(content) >= byteLength(pattern.String)
  );
}

const byteLength = (text: string) => Buffer.byteLength(text);

function keepsText({type = '', behavior}: Step): boolean {
  return (
    ['ByteLevel', 'Metaspace', 'Digits', 'Split', 'Punctuation'].includes(type) && behavior !== 'Removed'
  );
}

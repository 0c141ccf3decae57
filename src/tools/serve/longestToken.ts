import type {TokenizerFiles} from '../../../models/tokenizerFiles.ts';

/** A normalizer or pre-tokenizer of a `tokenizer.json`. */
interface Step {
  type?: string;
  behavior?: string;
  pattern?: {String?: string};
  content?: string;
  normalizers?: Step[];
  pretokenizers?: Step[];
}

/**
 * Returns the largest number of bytes that one token can represent. A text with more bytes than that times the model's
 * positions cannot fit, so it need not be tokenized.
 *
 * @returns undefined if there is no such limit: when a step before the vocabulary may shorten the text, or when an
 *   unknown token can represent any length of it
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
  // A token's spelling has at least as many bytes as its text, as each byte or space is spelled with one character.
  let longest = 4; // bytes of an unknown character
  for (const token of [...Object.keys(model.vocab), ...added.map(({content}) => content)]) {
    longest = Math.max(longest, Buffer.byteLength(token));
  }
  return longest;
}

/** Returns the steps of a sequence, or a single step as a list. */
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

import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {GGUF_PRE_TOKENIZERS} from './preTokenizers.ts';

type Json = Record<string, unknown>;

/**
 * Returns the name that llama.cpp has for how a byte-level BPE tokenizer splits a text: `tokenizer.ggml.pre`.
 *
 * @param json contents of `tokenizer.json`
 * @throws TfjsLoraError `UNSUPPORTED` for splits that are not known here
 */
export function preTokenizerName(json: Json): string {
  const {ignore_merges} = json.model as Json;
  const {pre_tokenizer, normalizer} = json;
  const splits = canonical(pre_tokenizer);
  const found = GGUF_PRE_TOKENIZERS.find(
    (each) =>
      canonical(each.preTokenizer) === splits &&
      each.ignoreMerges === (ignore_merges === true) &&
      // A tokenizer that normalizes nothing suits llama.cpp's, which never normalize.
      (normalizer == null || canonical(each.normalizer) === canonical(normalizer)),
  );
  if (found) return found.names[0];
  const names = GGUF_PRE_TOKENIZERS.map(({names}) => names[0]).join(', ');
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `saveGguf tokenizer.json pre_tokenizer: expected one of llama.cpp's, ${names}, got ${show(pre_tokenizer)} with ` +
      `ignore_merges ${ignore_merges === true} and normalizer ${show(normalizer)}`,
  );
}

/** Spells a step of a tokenizer so that equal ones are equal texts: keys in order, and none that changes no ids. */
function canonical(step: unknown): string {
  return JSON.stringify(step ?? null, (key, value) => {
    if (key === 'trim_offsets') return undefined;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
    const {use_regex = true, add_prefix_space = true} = value;
    const whole = value.type === 'ByteLevel' ? {...value, use_regex, add_prefix_space} : value;
    return Object.fromEntries(Object.entries(whole).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}

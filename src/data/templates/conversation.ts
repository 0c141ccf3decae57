import type {Message} from './template.ts';

/** A record of any format, converted to one form. */
export interface Conversation {
  /** Turns up to the last question; an odd number, as they alternate. */
  prompt: Message[];
  /** The answer; absent when the data has none. */
  response?: Message;
  /** A worse answer, with which training compares the response. */
  rejected?: Message;
  /** Whether the response is desirable, if the record says so. */
  desirable?: boolean;
  system?: string;
  /** Number of answers at the start that are context and not learned. Default 0. */
  unlearnedAnswers?: number;
  /** Tools as JSON text. */
  tools?: string;
  /** Place of the record: `data/train.json record 17 (line 52)`. */
  source: string;
  /**
   * Why it cannot be used, if so. As in LLaMA-Factory it is dropped only when examples are made, so splits count it.
   */
  fault?: string;
}

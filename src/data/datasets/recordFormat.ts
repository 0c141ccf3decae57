export type DatasetFormat = 'alpaca' | 'sharegpt' | 'openai';

export const COLUMNS = [
  'prompt',
  'query',
  'response',
  'history',
  'messages',
  'system',
  'tools',
  'chosen',
  'rejected',
  'kto_tag',
] as const;
export type ColumnName = (typeof COLUMNS)[number];

/** The keys of records that no file describes. */
export const DEFAULT_COLUMNS: Partial<Record<ColumnName, string>> = {
  prompt: 'instruction',
  query: 'input',
  response: 'output',
  messages: 'conversations',
};

export const DEFAULT_TAGS = {
  role_tag: 'from',
  content_tag: 'value',
  user_tag: 'human',
  assistant_tag: 'gpt',
  observation_tag: 'observation',
  function_tag: 'function_call',
  system_tag: 'system',
};
export type TagName = keyof typeof DEFAULT_TAGS;

/** What a record's keys mean, with the defaults filled in. */
export interface RecordFormat {
  /** Name of the data set, for messages. */
  name: string;
  format: DatasetFormat;
  /** Whether each record has a chosen and a rejected answer. Default false. */
  ranking?: boolean;
  /** The record's key for each part. Without `columns` in the file, these are the format's usual keys. */
  columns: Partial<Record<ColumnName, string>>;
  /** As in LLaMA-Factory, a tag that `tags` omits while naming others has no value. */
  tags: Partial<Record<TagName, string>>;
}

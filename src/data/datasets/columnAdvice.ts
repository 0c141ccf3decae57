import {nearestNames} from '../../../quant/errors.ts';
import type {ColumnName, RecordFormat} from './recordFormat.ts';

/** Tags of messages in OpenAI's form, which LLaMA-Factory expects in `dataset_info.json`. */
const OPENAI_TAGS =
  '{"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", ' +
  '"system_tag": "system"}';

/** Characters that separate cells in files that are called CSV, with their names. */
const DELIMITERS: readonly [character: string, name: string][] = [
  [';', 'semicolons'],
  ['\t', 'tabs'],
  ['|', 'vertical bars'],
];

/**
 * Says what to do about a record that lacks a column.
 *
 * @param key name of the column in the data set
 */
export function columnAdvice(
  record: Readonly<Record<string, unknown>>,
  column: ColumnName,
  key: string | undefined,
  {name, format}: RecordFormat,
): string {
  const keys = Object.keys(record);
  const [first] = keys;
  const delimiter = keys.length === 1 && DELIMITERS.find(([character]) => first.includes(character));
  if (delimiter)
    return `The file separates cells by ${delimiter[1]}: save it with commas, or with tabs as .tsv.`;
  if (keys.length === 1 && Array.isArray(record[first]) && typeof Object(record[first])[0] === 'object') {
    const entry = `"formatting": "openai", "columns": {"messages": "${first}"}, "tags": ${OPENAI_TAGS}`;
    const isMessages = Object.hasOwn(Object((record[first] as unknown[])[0]), 'role');
    if (isMessages && format === 'alpaca') return `For messages, write ${entry} for ${name}.`;
    if (!isMessages && first !== 'conversations')
      return `If the records are the list under '${first}', save that list alone.`;
    if (format === 'alpaca') return `Write "formatting": "sharegpt" for ${name} in dataset_info.json.`;
  }
  return (
    `Nearest: ${nearestNames(key ?? column, keys, 1)}. ` +
    `Name it under columns ${column} of ${name} in dataset_info.json.`
  );
}

/** Says how to describe a message whose role or content has another key than the tags name. */
export function tagAdvice(keys: readonly string[], key: string | undefined): string {
  return keys.includes('role') && keys.includes('content')
    ? ` Add "tags": ${OPENAI_TAGS} in dataset_info.json.`
    : ` Nearest: ${nearestNames(key ?? '', keys, 1)}.`;
}

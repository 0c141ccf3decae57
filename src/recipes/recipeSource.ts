import {readFile} from 'node:fs/promises';
import {type Document, isMap, isScalar, LineCounter, parseDocument, parse as parseYaml} from 'yaml';
import {TfjsLoraError} from '../../quant/errors.ts';

/** The values of a recipe as they were written, and where. */
export interface RecipeSource {
  /** By key, in the order of the file; `null` where nothing or `null` was written. */
  readonly values: ReadonlyMap<string, unknown>;
  /** Place of a key's value for messages: `recipe.yaml:12:16`, or `argument lora_rank=x`; for an absent key the file. */
  where(key: string): string;
  /** Place of the key itself. */
  whereKey(key: string): string;
  /** Whether a key was given as an argument. */
  isArgument(key: string): boolean;
}

interface Entry {
  value: unknown;
  where: string;
  whereKey: string;
}

/**
 * Reads a recipe, YAML or JSON; `key=value` arguments go before what the file says.
 *
 * @param overrides such as `lora_rank=16`; the value is read as YAML
 * @throws TfjsLoraError `FILE_NOT_FOUND`; `INVALID_CONFIG` with line and column where the text is no mapping
 */
export async function readRecipe(path: string, overrides: readonly string[] = []): Promise<RecipeSource> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    const {code} = cause as NodeJS.ErrnoException;
    const got = code === 'ENOENT' ? 'nothing there' : code === 'EISDIR' ? 'a folder' : String(cause);
    throw new TfjsLoraError('FILE_NOT_FOUND', `recipe ${path}: expected a YAML file, got ${got}`, {cause});
  }
  return parseRecipeText(text, path, overrides);
}

/** As {@link readRecipe}, of a text; `path` names it in messages. */
export function parseRecipeText(text: string, path: string, overrides: readonly string[] = []): RecipeSource {
  const entries = new Map<string, Entry>([...entriesOf(text, path), ...overrides.map(entryOfArgument)]);
  return {
    values: new Map([...entries].map(([key, {value}]) => [key, value ?? null])),
    where: (key) => entries.get(key)?.where ?? path,
    whereKey: (key) => entries.get(key)?.whereKey ?? path,
    isArgument: (key) => overrides.some((argument) => argument.startsWith(`${key}=`)),
  };
}

function entriesOf(text: string, path: string): [string, Entry][] {
  const lines = new LineCounter();
  const document: Document.Parsed = parseDocument(text, {lineCounter: lines, prettyErrors: false});
  const at = (offset: number) => {
    const {line, col} = lines.linePos(offset);
    return `${path}:${line}:${col}`;
  };
  const [error] = document.errors;
  if (error) {
    const got = error.code === 'DUPLICATE_KEY' ? ' a key that stands above already' : `: ${error.message}`;
    throw new TfjsLoraError('INVALID_CONFIG', `${at(error.pos[0])}: expected YAML, got${got}`);
  }
  if (document.contents === null) return [];
  if (!isMap(document.contents)) {
    const [start] = document.contents.range;
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${at(start)}: expected lines of "key: value", got something else`,
    );
  }
  return document.contents.items.map(({key, value}) => {
    const keyAt = at(isScalar(key) && key.range ? key.range[0] : 0);
    const range = (value as {range?: [number, number, number]} | null)?.range;
    const entry = {
      value: document.toJS()[String(key)],
      where: range ? at(range[0]) : keyAt,
      whereKey: keyAt,
    };
    return [String(key), entry];
  });
}

function entryOfArgument(argument: string): [string, Entry] {
  const where = `argument ${argument}`;
  const [, key, text] = /^([\w.]+)=(.*)$/s.exec(argument) ?? [];
  if (key === undefined) {
    throw new TfjsLoraError('INVALID_CONFIG', `${where}: expected key=value, such as lora_rank=16`);
  }
  let value: unknown;
  try {
    value = parseYaml(text);
  } catch {
    value = text; // such as an unbalanced quote: the shell took the others away
  }
  return [key, {value, where, whereKey: where}];
}

import {readFile} from 'node:fs/promises';
import {
  type Document,
  isAlias,
  isMap,
  isNode,
  isScalar,
  LineCounter,
  type Node,
  parseDocument,
  parse as parseYaml,
  visit,
  type YAMLMap,
} from 'yaml';
import {decodeUtf8} from '../../../quant/decodeUtf8.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {didYouMeanPath} from '../../../quant/folders/similarPath.ts';

/** The values of a recipe as they were written, with their positions. */
export interface RecipeSource {
  /** Values by key, in the order of the file; `null` if the file has no value or `null`. */
  readonly values: ReadonlyMap<string, unknown>;
  /** Names a value's position for messages: `recipe.yaml:12:16`, `argument lora_rank=x`, or the file if absent. */
  where(key: string): string;
  /** Names the position of the key itself. */
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
 * Reads a recipe in YAML or JSON.
 *
 * @param overrides arguments that override the file, such as `lora_rank=16`; the value is read as YAML
 * @throws TfjsLoraError `FILE_NOT_FOUND`; `INVALID_CONFIG` with line and column when the text is not a mapping
 */
export async function readRecipe(path: string, overrides: readonly string[] = []): Promise<RecipeSource> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    const {code} = cause as NodeJS.ErrnoException;
    const got = code === 'ENOENT' ? 'no such file' : code === 'EISDIR' ? 'a folder' : String(cause);
    const advice =
      code === 'EISDIR'
        ? `. Write a recipe that names it, as model_name_or_path or adapter_name_or_path.`
        : code === 'ENOENT'
          ? didYouMeanPath(path).replace(/^./, '.$&')
          : '';
    throw new TfjsLoraError('FILE_NOT_FOUND', `recipe ${path}: expected a YAML file, got ${got}${advice}`, {
      cause,
    });
  }
  return parseRecipeText(decodeUtf8(bytes, path), path, overrides);
}

/** Parses the text of a recipe as {@link readRecipe} does. `path` names it in messages. */
export function parseRecipeText(text: string, path: string, overrides: readonly string[] = []): RecipeSource {
  const entries = new Map<string, Entry>([...entriesOf(text, path), ...overrides.map(entryOfArgument)]);
  return {
    values: new Map([...entries].map(([key, {value}]) => [key, value ?? null])),
    where: (key) => entries.get(key)?.where ?? path,
    whereKey: (key) => entries.get(key)?.whereKey ?? path,
    isArgument: (key) => overrides.some((argument) => argument.startsWith(`${key}=`)),
  };
}

/** Largest number of keys. LLaMA-Factory has about 400 arguments. */
const MAX_KEYS = 1000;

const MAX_LENGTH = 2 ** 20;

function entriesOf(text: string, path: string): [string, Entry][] {
  const lines = new LineCounter();
  const at = (offset: number) => {
    const {line, col} = lines.linePos(offset);
    return `${path}:${line}:${col}`;
  };
  const invalid = (offset: number, expected: string, got: string) =>
    new TfjsLoraError('INVALID_CONFIG', `${at(offset)}: expected ${expected}, got ${got}`);
  if (text.length > MAX_LENGTH) {
    const got = `${text.length}`;
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${path}: expected at most ${MAX_LENGTH} characters, got ${got}`,
    );
  }
  const document = parseDocument(text, {lineCounter: lines, prettyErrors: false, uniqueKeys: false});
  const fault = faultOf(document);
  if (fault) throw invalid(fault.offset, 'YAML', fault.got);
  if (document.contents === null) return [];
  if (!isMap(document.contents)) {
    throw invalid(document.contents.range[0], 'lines of "key: value"', 'something else');
  }
  const {items} = document.contents;
  if (items.length > MAX_KEYS) throw invalid(0, `at most ${MAX_KEYS} keys`, `${items.length}`);
  let values: Record<string, unknown>;
  try {
    values = document.toJS();
  } catch (cause) {
    throw invalid(0, 'YAML', `more repeated aliases than can be written out: ${(cause as Error).message}`);
  }
  return items.map(({key, value}) => {
    const keyAt = at(isScalar(key) && key.range ? key.range[0] : 0);
    const range = (value as {range?: [number, number, number]} | null)?.range;
    const entry = {value: values[String(key)], where: range ? at(range[0]) : keyAt, whereKey: keyAt};
    return [String(key), entry];
  });
}

/** Returns the first fault of a document and its position. */
function faultOf(document: Document.Parsed): {offset: number; got: string} | undefined {
  const [error] = document.errors;
  if (error) {
    const isDeep = error.message.startsWith('Maximum call stack');
    return {offset: error.pos[0], got: isDeep ? 'lists or maps that are nested too deeply' : error.message};
  }
  let fault: {offset: number; got: string} | undefined;
  const found = (node: unknown, got: string) => {
    fault = {offset: (node as {range?: [number, number, number]}).range?.[0] ?? 0, got};
    return visit.BREAK;
  };
  const anchors = new Map<string, unknown>();
  visit(document, (_, node, path) => {
    if (isAlias(node)) {
      if (path.includes(anchors.get(node.source) as Node)) {
        return found(node, `*${node.source}, an alias for its own parent`);
      }
    } else if (isNode(node) && node.anchor) anchors.set(node.anchor, node);
    const twice = isMap(node) ? duplicateKey(node) : undefined;
    return twice === undefined ? undefined : found(twice, 'a key that is already set above');
  });
  return fault;
}

/** Finds a repeated key in linear time. The YAML library's own check compares every key with every other. */
function duplicateKey({items}: YAMLMap): unknown {
  const keys = new Set<unknown>();
  return items.find(({key}) => {
    const known = isScalar(key) ? key.value : key;
    if (keys.has(known)) return true;
    keys.add(known);
    return false;
  })?.key;
}

function entryOfArgument(argument: string): [string, Entry] {
  const where = `argument ${argument}`;
  const [, key, text] = /^([\w.]+)=(.*)$/s.exec(argument) ?? [];
  if (key === undefined) {
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where}: expected key=value, such as lora_rank=16, without spaces, got no "=". ` +
        'The folder of an adapter is adapter_name_or_path=<folder>.',
    );
  }
  let value: unknown;
  try {
    value = parseYaml(text);
  } catch {
    value = text; // such as an unbalanced quote, because the shell removed the other one
  }
  return [key, {value, where, whereKey: where}];
}

import {Tokenizer as TokenizerCore} from '@huggingface/tokenizers';
import {nearestNames, TfjsLoraError} from '../quant/errors.ts';
import {DiskFolder} from '../quant/folders/diskFolder.ts';
import {readText, type WritableFolder} from '../quant/folders/folder.ts';
import {
  type FolderSource,
  type FolderTarget,
  folderToWrite,
  openFolder,
} from '../quant/folders/openFolder.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {show} from '../quant/show.ts';
import {warn} from '../quant/warn.ts';
import {completeAddedTokens, contentOf, withAddedTokens} from './addedTokens.ts';
import {assertTokenIds} from './assertTokenIds.ts';
import {ChatTemplate} from './chatTemplate/chatTemplate.ts';
import {openModelFolder} from './gguf/openModelFolder.ts';
import {readJsonIfPresent, readJsonOf} from './jsonFile.ts';
import {assertTokenizerPatterns} from './patterns/assertTokenizerPatterns.ts';
import {TOKENIZER_FILES, type TokenizerFiles} from './tokenizerFiles.ts';

/**
 * One turn of a conversation, as chat templates read it. Further keys (`tool_calls`, `name`) are passed to the
 * template.
 */
export interface ChatMessage {
  role: string;
  content?: unknown;
  [key: string]: unknown;
}

export interface ChatTemplateOptions {
  /** Whether to end the text with the header of an assistant's turn, ready to be continued. Default false. */
  addGenerationPrompt?: boolean;
  /** Today's date as the template prints it, such as `26 Jul 2024`. Default: the date in the template. */
  dateString?: string;
  /** JSON schemas of the functions that the model may call. */
  tools?: unknown[];
  /** Further variables of the template, by name. */
  variables?: Record<string, unknown>;
}
/** The options of a chat template. */
export const CHAT_TEMPLATE_OPTIONS = {
  addGenerationPrompt: true,
  dateString: true,
  tools: true,
  variables: true,
} satisfies OptionNames<ChatTemplateOptions>;

const MODEL_TYPES = ['BPE', 'Unigram', 'WordPiece'];

const NAMED_TOKENS = ['bos_token', 'eos_token', 'pad_token', 'unk_token'] as const;
type NamedToken = (typeof NAMED_TOKENS)[number];

/** Roles of ShareGPT and other formats, with those of chat templates. */
const FOREIGN_ROLES: ReadonlyMap<string, string> = new Map([
  ['human', 'user'],
  ['gpt', 'assistant'],
  ['bot', 'assistant'],
  ['ai', 'assistant'],
  ['model', 'assistant'],
]);

/**
 * Converts text to token ids and back, and renders the chat template, like `AutoTokenizer` in transformers.
 * `@huggingface/tokenizers` does the tokenizing itself, from the folder's `tokenizer.json`.
 *
 * @example
 * ```ts
 * import {Tokenizer} from 'tfjs-lora';
 *
 * const tokenizer = await Tokenizer.fromFolder('Llama-3.2-1B-Instruct');
 * const ids = tokenizer.encodeChat([{role: 'user', content: 'Hello'}], {addGenerationPrompt: true});
 * console.log(tokenizer.decode(ids));
 * ```
 */
export class Tokenizer {
  /** One more than the largest token id, added tokens included. */
  readonly vocabSize: number;
  readonly bosTokenId?: number;
  readonly eosTokenId?: number;
  readonly padTokenId?: number;
  readonly unkTokenId?: number;

  private readonly core: TokenizerCore;
  private readonly specialIds: ReadonlySet<number>;
  private readonly namedTokens: Partial<Record<NamedToken, string>> = {};
  private readonly parsedTemplates = new Map<string, ChatTemplate>();
  private readonly foreignRoles = new Set<string>(); // that were warned of

  /**
   * @param files parsed contents of the tokenizer's files
   * @param folder the folder they were read from, which errors name and {@link save} copies from
   * @param rewritten names of the files that {@link save} writes from `files` instead of copying. Default none
   * @throws TfjsLoraError `CORRUPT_FILE` when `tokenizer.json` describes no tokenizer; `INVALID_CONFIG` when
   *   `tokenizer_config.json` names a special token that has no id
   */
  constructor(
    readonly files: TokenizerFiles,
    readonly folder?: FolderSource,
    private readonly rewritten: ReadonlySet<string> = new Set(),
  ) {
    if (typeof Object(files).tokenizer !== 'object') {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `new Tokenizer: expected the contents of a tokenizer's files, got ${show(files)}. Open a folder with ` +
          'await Tokenizer.fromFolder(folder).',
      );
    }
    this.core = createCore(files, this.pathOf('tokenizer.json'));
    this.vocabSize = this.core.model?.vocab.length ?? 0;
    for (const name of NAMED_TOKENS) this.namedTokens[name] = this.readNamedToken(name);
    this.bosTokenId = this.idOf(this.namedTokens.bos_token);
    this.eosTokenId = this.idOf(this.namedTokens.eos_token);
    this.padTokenId = this.idOf(this.namedTokens.pad_token);
    this.unkTokenId = this.idOf(this.namedTokens.unk_token);
    const special = [this.bosTokenId, this.eosTokenId, this.padTokenId, this.unkTokenId];
    for (const [id, token] of this.core.get_added_tokens_decoder()) if (token.special) special.push(id);
    this.specialIds = new Set(special.filter((id): id is number => id !== undefined));
  }

  /**
   * Reads the tokenizer of a Hugging Face folder: `tokenizer.json` and `tokenizer_config.json`, and if present,
   * `special_tokens_map.json`, `added_tokens.json` and `chat_template.jinja`.
   *
   * @throws TfjsLoraError `FILE_NOT_FOUND`, `CORRUPT_FILE` or `INVALID_CONFIG`, naming the file and its key
   */
  static async fromFolder(source: FolderSource): Promise<Tokenizer> {
    const folder = await openModelFolder(source);
    const [tokenizer, config, specialTokensMap, addedTokens, chatTemplate] = await Promise.all([
      readJsonOf(folder, 'tokenizer.json'),
      readJsonOf(folder, 'tokenizer_config.json'),
      readJsonIfPresent(folder, 'special_tokens_map.json'),
      readJsonIfPresent(folder, 'added_tokens.json'),
      readText(folder, 'chat_template.jinja'),
    ]);
    return new Tokenizer({tokenizer, config, specialTokensMap, addedTokens, chatTemplate}, folder);
  }

  /**
   * Makes the same tokenizer with other settings, which {@link save} writes.
   *
   * @param changes keys of `tokenizer_config.json`: special tokens, `chat_template`
   * @throws TfjsLoraError `INVALID_CONFIG` when a special token has no id
   */
  withConfig(changes: Record<string, unknown>): Tokenizer {
    const {config, specialTokensMap, chatTemplate} = this.files;
    const hasTemplate = 'chat_template' in changes;
    const mapped = Object.entries(changes).filter(([key]) => key in (specialTokensMap ?? {}));
    const files = {
      ...this.files,
      config: {...config, ...changes},
      specialTokensMap: specialTokensMap && {...specialTokensMap, ...Object.fromEntries(mapped)},
      chatTemplate: hasTemplate ? undefined : chatTemplate,
    };
    const rewritten = ['tokenizer_config.json', 'special_tokens_map.json'];
    const dropped = hasTemplate ? ['chat_template.jinja', 'chat_template.json'] : [];
    return new Tokenizer(files, this.folder, new Set([...this.rewritten, ...rewritten, ...dropped]));
  }

  /**
   * Makes the same tokenizer with further tokens, which {@link save} writes. Tokens that the vocabulary has keep their ids;
   * the others get the next ones, as in transformers' `add_tokens`.
   *
   * @param options.special whether they are special tokens. Default false
   * @throws TfjsLoraError `INVALID_ARGUMENT` for anything but texts
   */
  withTokens(tokens: string[], options: {special?: boolean} = {}): Tokenizer {
    assertKnownOptions('Tokenizer.withTokens', options, {special: true});
    const isText = (token: unknown) => typeof token === 'string' && token !== '';
    if (!Array.isArray(tokens) || !tokens.every(isText)) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `Tokenizer.withTokens tokens: expected a list of texts, got ${show(tokens)}`,
      );
    }
    const {tokenizer, config} = this.files;
    const added = withAddedTokens(completeAddedTokens(this.files), tokens, options.special ?? false, {
      idOf: (token) => this.tokenToId(token),
      nextId: this.vocabSize,
    });
    const files = {
      ...this.files,
      tokenizer: {...tokenizer, added_tokens: added},
      config: {
        ...config,
        ...(config.added_tokens_decoder != null && {
          added_tokens_decoder: Object.fromEntries(added.map(({id, ...token}) => [id, token])),
        }),
      },
    };
    return new Tokenizer(
      files,
      this.folder,
      new Set([...this.rewritten, 'tokenizer.json', 'tokenizer_config.json']),
    );
  }

  /**
   * Converts text to token ids.
   *
   * @param options.addSpecialTokens whether to add the tokens that belong around a text, such as `<|begin_of_text|>`.
   *   Default true
   */
  encode(text: string, options: {addSpecialTokens?: boolean} = {}): number[] {
    assertKnownOptions('Tokenizer.encode', options, {addSpecialTokens: true});
    const {addSpecialTokens = true} = options;
    if (typeof text !== 'string') {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `Tokenizer.encode text: expected a string, got ${typeof text}`,
      );
    }
    const {ids} = this.withCore('encode', (core) =>
      core.encode(text, {add_special_tokens: addSpecialTokens}),
    );
    // Without an unknown token, the core leaves holes where the Rust tokenizer leaves nothing.
    return ids.filter((id) => id !== undefined);
  }

  /**
   * Converts token ids to text. Ids without a token (a model's vocabulary may be padded) are left out, as in
   * transformers. The `clean_up_tokenization_spaces` of old configs is ignored, as in transformers 5: it corrupts BPE
   * text.
   *
   * @param options.skipSpecialTokens whether to leave out `<|eot_id|>` and the like. Default false
   */
  decode(ids: ArrayLike<number>, options: {skipSpecialTokens?: boolean} = {}): string {
    assertKnownOptions('Tokenizer.decode', options, {skipSpecialTokens: true});
    const {skipSpecialTokens = false} = options;
    const kept: number[] = [];
    if (typeof Object(ids).length !== 'number' || typeof ids === 'string') {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `Tokenizer.decode ids: expected a list of token ids, got ${show(ids)}. Read a tensor first: await ids.array().`,
      );
    }
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i];
      if (!Number.isInteger(id) || id < 0) {
        throw new TfjsLoraError(
          'INVALID_ARGUMENT',
          `Tokenizer.decode ids[${i}]: expected a token id of 0 or more, got ${show(id)}. ` +
            (Array.isArray(id)
              ? 'Decode one list at a time.'
              : 'Leave out ignored labels (-100) before decoding.'),
        );
      }
      if (this.idToToken(id) === undefined || (skipSpecialTokens && this.specialIds.has(id))) continue;
      kept.push(id);
    }
    if (kept.length === 0) return '';
    return this.withCore('decode', (core) => core.decode(kept, {clean_up_tokenization_spaces: false}));
  }

  /** Whether {@link decode} leaves this id out with `skipSpecialTokens`. */
  isSpecial(id: number): boolean {
    return this.specialIds.has(id);
  }

  /** Returns the id of a whole token, special ones included, or undefined. */
  tokenToId(token: string): number | undefined {
    return this.core.token_to_id(token);
  }

  /** Returns the token of an id as the vocabulary spells it, or undefined. */
  idToToken(id: number): string | undefined {
    return this.core.id_to_token(id);
  }

  /** Whether `tokenizer_config.json` says that texts begin with the beginning-of-sequence token. */
  get addsBosToken(): boolean {
    const {add_bos_token: adds, tokenizer_class: kind} = this.files.config;
    return typeof adds === 'boolean' ? adds : kind === 'LlamaTokenizer' || kind === 'LlamaTokenizerFast';
  }

  /** The text of the chat template for conversations without tools; undefined if the folder has none. */
  get chatTemplate(): string | undefined {
    return this.templateSource()?.text;
  }

  /** Whether the folder has a chat template. */
  get hasChatTemplate(): boolean {
    return this.templateSource() !== undefined;
  }

  /**
   * Renders a conversation as text, in the format that the model was trained to continue.
   *
   * @throws TfjsLoraError `UNSUPPORTED` when the tokenizer has no chat template; `INVALID_ARGUMENT` when the template
   *   refuses the messages; `CORRUPT_FILE` when it is not a valid template, or exceeds its limits
   */
  applyChatTemplate(messages: ChatMessage[], options: ChatTemplateOptions = {}): string {
    if (!Array.isArray(messages) || messages.length === 0) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `chat template messages: expected at least one {role, content}, got ${show(messages)}. Pass a list such as ` +
          "[{role: 'user', content: 'Hello'}].",
      );
    }
    const wrong = messages.findIndex((message) => typeof Object(message).role !== 'string');
    if (wrong >= 0) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `chat template messages[${wrong}]: expected {role, content}, got ${show(messages[wrong])}. The role is 'system', ` +
          "'user', 'assistant' or 'tool'.",
      );
    }
    assertKnownOptions('chat template', options, CHAT_TEMPLATE_OPTIONS);
    const {addGenerationPrompt = false, dateString, tools, variables} = options;
    const text = this.template(tools !== undefined).render({
      messages: messages.map(definedOnly), // some APIs write null for a missing key
      add_generation_prompt: addGenerationPrompt,
      documents: null, // transformers passes None when it has none
      tools: tools ?? null,
      ...definedOnly(this.namedTokens),
      ...definedOnly({date_string: dateString}),
      ...variables,
    });
    this.warnOfForeignRole(messages);
    return text;
  }

  /** Warns once of a role of other formats that the chat template does not name, because it writes any role. */
  private warnOfForeignRole(messages: readonly ChatMessage[]): void {
    const at = messages.findIndex(({role}) => FOREIGN_ROLES.has(role));
    if (at < 0) return;
    const {role} = messages[at];
    const isNamed = [`'${role}'`, `"${role}"`].some((word) => this.chatTemplate?.includes(word));
    if (isNamed || this.foreignRoles.has(role)) return;
    this.foreignRoles.add(role);
    warn(
      `chat template messages[${at}] role: expected system, user, assistant or tool, got ${show(role)}, which the model ` +
        `may not know. Use ${show(FOREIGN_ROLES.get(role))}.`,
    );
  }

  /**
   * Renders a conversation with {@link applyChatTemplate} and encodes it. The template writes the special tokens.
   *
   * @throws TfjsLoraError as {@link applyChatTemplate}
   */
  encodeChat(messages: ChatMessage[], options: ChatTemplateOptions = {}): number[] {
    return this.encode(this.applyChatTemplate(messages, options), {addSpecialTokens: false});
  }

  /**
   * Checks that every token has a row in the model's embedding. A larger embedding is fine: padding it is common.
   *
   * @param modelVocabSize `vocab_size` of the model's config
   * @param options.allowAdded whether added tokens may lack a row, such as an untrained `[PAD]`; using one is refused.
   *   Default false
   * @throws TfjsLoraError `VOCABULARY_MISMATCH`
   */
  assertFits(modelVocabSize: number, options: {allowAdded?: boolean} = {}): void {
    assertKnownOptions('Tokenizer.assertFits', options, {allowAdded: true});
    const {allowAdded = false} = options;
    if (this.vocabSize <= modelVocabSize) return;
    if (allowAdded && this.isBeyond(modelVocabSize)) return;
    throw new TfjsLoraError(
      'VOCABULARY_MISMATCH',
      `${this.pathOf('tokenizer.json')} vocabulary: expected at most ${modelVocabSize} tokens (the model's ` +
        `vocab_size), got ${this.vocabSize}. Use the tokenizer that the model was trained with.`,
    );
  }

  /**
   * Writes the tokenizer into a folder that transformers loads: copies of the files it was read from, or its contents
   * when it did not come from a folder.
   *
   * @throws TfjsLoraError `FILE_NOT_FOUND` when the folder it was read from no longer exists
   */
  async save(target: FolderTarget): Promise<void> {
    const folder = folderToWrite(target);
    await folder.create();
    const [files, isInPlace] = await this.filesFor(folder);
    await folder.writeTogether(
      'tokenizer_config.json',
      async (draft) => {
        for (const [name, contents] of files)
          if (!isInPlace || this.rewritten.has(name)) await draft.write(name, contents);
      },
      (name) => TOKENIZER_FILES.includes(name) && !files.has(name),
    );
  }

  /** Returns the files to save, by name, and whether the unchanged ones are already in the folder. */
  private async filesFor(folder: WritableFolder): Promise<[Map<string, Uint8Array | string>, boolean]> {
    const own = this.ownFiles();
    if (this.folder === undefined) return [own, false];
    const source = openFolder(this.folder);
    const files = new Map<string, Uint8Array | string>();
    for (const name of TOKENIZER_FILES) {
      const contents = this.rewritten.has(name) ? own.get(name) : await source.read(name);
      if (contents !== undefined) files.set(name, contents);
    }
    for (const name of ['tokenizer.json', 'tokenizer_config.json']) {
      if (files.has(name)) continue;
      throw new TfjsLoraError(
        'FILE_NOT_FOUND',
        `${source.pathOf(name)}: expected the file that the tokenizer was read from, got nothing there`,
      );
    }
    return [files, folder instanceof DiskFolder && (await folder.isSameAs(source))];
  }

  /** Returns the files it was made of, as texts. */
  private ownFiles(): Map<string, string> {
    const {tokenizer, config, specialTokensMap, addedTokens, chatTemplate} = this.files;
    return new Map([
      ['tokenizer.json', toJsonText(tokenizer)],
      ['tokenizer_config.json', toJsonText(config)],
      ...(specialTokensMap ? [['special_tokens_map.json', toJsonText(specialTokensMap)] as const] : []),
      ...(addedTokens ? [['added_tokens.json', toJsonText(addedTokens)] as const] : []),
      ...(chatTemplate !== undefined ? [['chat_template.jinja', chatTemplate] as const] : []),
    ]);
  }

  /** Whether all tokens from an id on are added ones that texts need not begin or end with. */
  private isBeyond(id: number): boolean {
    const added = this.core.get_added_tokens_decoder();
    for (let i = id; i < this.vocabSize; i++)
      if (this.idToToken(i) !== undefined && !added.has(i)) return false;
    return (this.bosTokenId ?? 0) < id && (this.eosTokenId ?? 0) < id;
  }

  /** Runs the core and turns its errors into ours, because it finds some faults of its file only as it works. */
  private withCore<R>(what: string, work: (core: TokenizerCore) => R): R {
    try {
      return work(this.core);
    } catch (cause) {
      throw new TfjsLoraError(
        'CORRUPT_FILE',
        `${this.pathOf('tokenizer.json')}: expected a tokenizer that can ${what} a text, ` +
          `got ${(cause as Error).message}`,
        {cause},
      );
    }
  }

  private pathOf(name: string): string {
    return this.folder === undefined ? name : openFolder(this.folder).pathOf(name);
  }

  private idOf(token: string | undefined): number | undefined {
    return token === undefined ? undefined : this.core.token_to_id(token);
  }

  private readNamedToken(name: NamedToken): string | undefined {
    const {config, specialTokensMap} = this.files;
    const file = config[name] != null ? 'tokenizer_config.json' : 'special_tokens_map.json';
    const value = config[name] ?? specialTokensMap?.[name];
    if (value == null) return undefined;
    const token = contentOf(value);
    if (token === undefined) {
      throw new TfjsLoraError(
        'INVALID_CONFIG',
        `${this.pathOf(file)} ${name}: expected a string or {"content": string}, got ${show(value)}`,
      );
    }
    if (this.core.token_to_id(token) === undefined) {
      const known = [...this.core.get_vocab().keys()].filter((name) => typeof name === 'string'); // it may have gaps
      const nearest = nearestNames(token, known);
      throw new TfjsLoraError(
        'INVALID_CONFIG',
        `${this.pathOf(file)} ${name}: expected a token of tokenizer.json, got "${token}". ` +
          `Nearest: ${nearest.map((candidate) => `"${candidate}"`).join(', ')}.`,
      );
    }
    return token;
  }

  /** Returns the template, and its file and key. Of named templates, `tool_use` is for tools, otherwise `default`. */
  private templateSource(hasTools = false): {text: string; where: string} | undefined {
    const {chatTemplate, config} = this.files;
    if (chatTemplate !== undefined) return {text: chatTemplate, where: this.pathOf('chat_template.jinja')};
    const where = `${this.pathOf('tokenizer_config.json')} chat_template`;
    const value = config.chat_template;
    if (value == null) return undefined;
    if (typeof value === 'string') return {text: value, where};
    const named = new Map(
      (Array.isArray(value) ? value : []).map(
        (entry) => [entry?.name, entry?.template] as [unknown, unknown],
      ),
    );
    const text = (hasTools ? named.get('tool_use') : undefined) ?? named.get('default');
    if (typeof text !== 'string') {
      throw new TfjsLoraError(
        'INVALID_CONFIG',
        `${where}: expected a string, or a list of {name, template} with one named "default", ` +
          `got ${show(value)}`,
      );
    }
    return {text, where};
  }

  private template(hasTools: boolean): ChatTemplate {
    const source = this.templateSource(hasTools);
    if (source === undefined) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `chat template of ${this.pathOf('tokenizer_config.json')}: expected chat_template.jinja or a chat_template ` +
          'in tokenizer_config.json, got neither. Use an instruction-tuned model, or add its template to the folder.',
      );
    }
    let parsed = this.parsedTemplates.get(source.text);
    if (parsed === undefined) {
      parsed = new ChatTemplate(source.text, source.where);
      this.parsedTemplates.set(source.text, parsed);
    }
    return parsed;
  }
}

function createCore(files: TokenizerFiles, path: string): TokenizerCore {
  const {tokenizer, config} = files;
  const model = tokenizer.model as {type?: unknown; vocab?: unknown} | undefined;
  if (
    typeof model !== 'object' ||
    model === null ||
    typeof model.vocab !== 'object' ||
    model.vocab === null
  ) {
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${path} model.vocab: expected the tokens and their ids, got ${show(model?.vocab ?? null)}`,
    );
  }
  // The core would treat an unknown type as a table of whole words.
  if (model.type !== undefined && !MODEL_TYPES.includes(model.type as string)) {
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${path} model.type: expected ${MODEL_TYPES.join(', ')}, got ${show(model.type)}`,
    );
  }
  assertTokenIds(model.vocab, tokenizer.added_tokens, path);
  assertTokenizerPatterns(tokenizer, path);
  // The core requires each of these; the Rust tokenizer treats a missing one as null.
  const complete = {
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    ...tokenizer,
  };
  try {
    return new TokenizerCore({...complete, added_tokens: completeAddedTokens(files)}, config);
  } catch (cause) {
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${path}: expected a tokenizer from Hugging Face, got one that cannot be built: ` +
        (cause as Error).message,
      {cause},
    );
  }
}

function definedOnly(values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value != null));
}

function toJsonText(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

import type {OptionNames} from '../../../quant/knownOptions.ts';

/**
 * A piece of a turn: text with `{{content}}` where the message goes, a special token of the tokenizer, or a token by
 * name.
 */
export type Slot = string | {special: 'bos' | 'eos'} | {token: string};

/** The format of a conversation, as plain data because it is sent to worker threads. Each list is one turn. */
export interface TemplateArgs {
  /** Start of the conversation. Default: nothing. */
  prefix?: Slot[];
  /** System turn. Default: the bare text. */
  system?: Slot[];
  /** A user's turn, up to where the answer begins. Default: the bare text. */
  user?: Slot[];
  /** An answer and its end. Default: the text and the end-of-sequence token. */
  assistant?: Slot[];
  /** A function call by the assistant. Default: as `assistant`. */
  function?: Slot[];
  /** A function's result. Default: as `user`. */
  observation?: Slot[];
  /** Whether the system text begins the first user's turn, instead of being a separate turn. Default false. */
  systemInUser?: boolean;
  /** The words that begin and end the thoughts in an answer, in the template of a reasoning model. Default: none. */
  thoughtWords?: [begin: string, end: string] | [];
  /** Name of the format in which tools are described and called: see `toolFormats.ts`. Default `default`. */
  toolFormat?: string;
  /** System text for conversations without one. Default: none. */
  defaultSystem?: string;
  /** Tokens that end an answer besides the end-of-sequence token. Default: none. */
  stopWords?: string[];
  /** Whether the first stop word replaces the end-of-sequence token. Default false. */
  replaceEos?: boolean;
  /** Whether an exported model gets this template's chat template even if its tokenizer has one. Default false. */
  replaceChatTemplate?: boolean;
  /** Whether the end-of-sequence token that ends an answer is the first token of what follows. Default false. */
  efficientEos?: boolean;
}

export const TEMPLATE_OPTIONS = {
  prefix: true,
  system: true,
  user: true,
  assistant: true,
  function: true,
  observation: true,
  systemInUser: true,
  thoughtWords: true,
  toolFormat: true,
  defaultSystem: true,
  stopWords: true,
  replaceEos: true,
  efficientEos: true,
  replaceChatTemplate: true,
} satisfies OptionNames<TemplateArgs>;

export type Template = Required<TemplateArgs> & {name: string};

/** The role of a turn, independent of its name in the data. */
export type Role = 'user' | 'assistant' | 'observation' | 'function';

export interface Message {
  role: Role;
  content: string;
}

/** Fills in a template's defaults. */
export function completeTemplate(name: string, args: TemplateArgs): Template {
  const {efficientEos = false, user = ['{{content}}']} = args;
  const assistant = args.assistant ?? ['{{content}}', ...(efficientEos ? [] : [{special: 'eos'} as const])];
  return {
    prefix: [],
    system: ['{{content}}'],
    function: assistant,
    observation: user,
    systemInUser: false,
    thoughtWords: [],
    toolFormat: 'default',
    defaultSystem: '',
    stopWords: [],
    replaceEos: false,
    replaceChatTemplate: false,
    ...args,
    name,
    user,
    assistant,
    efficientEos,
  };
}

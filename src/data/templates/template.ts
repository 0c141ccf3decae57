import type {OptionNames} from '../../../quant/knownOptions.ts';

/** A piece of a turn: text with `{{content}}` where the message goes, one of the tokenizer's own tokens, or a token by name. */
export type Slot = string | {special: 'bos' | 'eos'} | {token: string};

/** How a conversation is written out, as plain data: it travels to worker threads. Each list is one turn. */
export interface TemplateArgs {
  /** Before everything else. Default nothing. */
  prefix?: Slot[];
  /** Default the bare text. */
  system?: Slot[];
  /** A user's turn, up to where the answer begins. Default the bare text. */
  user?: Slot[];
  /** An answer with what ends it. Default the text and the end-of-sequence token. */
  assistant?: Slot[];
  /** A function call by the assistant. Default as `assistant`. */
  function?: Slot[];
  /** A function's result. Default as `user`. */
  observation?: Slot[];
  /** How tools are described and called: see `toolFormats.ts`. Default `default`. */
  toolFormat?: string;
  /** The system text where the data has none. Default none. */
  defaultSystem?: string;
  /** Tokens that end an answer besides the end-of-sequence token. */
  stopWords?: string[];
  /** The first stop word takes the place of the end-of-sequence token. Default false. */
  replaceEos?: boolean;
  /** An exported model gets this template's chat template even where its tokenizer has one. Default false. */
  replaceChatTemplate?: boolean;
  /** The end-of-sequence token that ends an answer is the first token of what follows. Default false. */
  efficientEos?: boolean;
}

export const TEMPLATE_OPTIONS = {
  prefix: true,
  system: true,
  user: true,
  assistant: true,
  function: true,
  observation: true,
  toolFormat: true,
  defaultSystem: true,
  stopWords: true,
  replaceEos: true,
  efficientEos: true,
  replaceChatTemplate: true,
} satisfies OptionNames<TemplateArgs>;

export type Template = Required<TemplateArgs> & {name: string};

/** The role of a turn, whatever the data calls it. */
export type Role = 'user' | 'assistant' | 'observation' | 'function';

export interface Message {
  role: Role;
  content: string;
}

/** A template with its defaults filled in. */
export function completeTemplate(name: string, args: TemplateArgs): Template {
  const {efficientEos = false, user = ['{{content}}']} = args;
  const assistant = args.assistant ?? ['{{content}}', ...(efficientEos ? [] : [{special: 'eos'} as const])];
  return {
    prefix: [],
    system: ['{{content}}'],
    function: assistant,
    observation: user,
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

import {stat} from 'node:fs/promises';
import {basename, resolve} from 'node:path';
import {createInterface, type Interface} from 'node:readline';
import type {CausalLM} from '../../../models/causalLM.ts';
import {counted} from '../../../quant/counted.ts';
import {didYouMean, TfjsLoraError} from '../../../quant/errors.ts';
import type {ChatSession} from '../chat/chatSession.ts';
import {adapterNameOf} from '../recipes/openForChat.ts';
import {isRecipeKey} from '../recipes/parseRecipe.ts';

export interface ChatLoopOptions {
  input: NodeJS.ReadableStream;
  output: NodeJS.WritableStream;
  /**
   * Whether to show a prompt, edit lines, and stop an answer at Ctrl-C; otherwise lines are read and answers written.
   */
  isTerminal: boolean;
  /** Returns the folder of an adapter that `/adapter` names, downloading it if necessary. Default: the name itself. */
  folderOf?: (name: string) => Promise<string>;
}

interface ChatCommand {
  usage: string;
  description: string;
  /** Runs the command and returns the text to show, or undefined to end the chat. */
  run(argument: string): string | undefined | Promise<string | undefined>;
}

const PROMPT = '> ';

/**
 * Chats in a terminal: each line is sent to the model, and the answer is shown as it is generated. Lines that start
 * with a slash are commands; a line that ends with a backslash continues on the next one. Ctrl-C stops an answer or
 * clears the typed text; without either, it ends the chat.
 */
export async function chatLoop(
  model: CausalLM,
  session: ChatSession,
  options: ChatLoopOptions,
): Promise<void> {
  const {input, output, isTerminal} = options;
  const lines = createInterface({
    input,
    ...(isTerminal && {output}),
    terminal: isTerminal,
    prompt: PROMPT,
    historySize: 1000,
  });
  const commands = chatCommands(model, session, options);
  const say = (text: string) => output.write(`${text}\n`);
  let stop: (() => void) | undefined;
  let message = '';
  lines.on('SIGINT', () => {
    if (stop) stop();
    else if (lines.line === '' && message === '') lines.close();
    else {
      message = '';
      lines.write(null, {ctrl: true, name: 'e'}); // moves to the end of the line; Ctrl-U then deletes everything before
      lines.write(null, {ctrl: true, name: 'u'});
      ask(lines, isTerminal, message);
    }
  });
  if (isTerminal) say(`${describeModel(model)}. /help shows the commands.`);
  ask(lines, isTerminal, message);
  for await (const line of lines) {
    message += line;
    if (line.endsWith('\\')) {
      message = `${message.slice(0, -1)}\n`;
      ask(lines, isTerminal, message);
      continue;
    }
    const [content, forgotten] = [message.trim(), session.forgottenTurns];
    message = '';
    try {
      const isExit = isTerminal && /^(exit|quit)$/i.test(content); // as in other chats
      if (content.startsWith('/') || isExit) {
        const reply = await runCommand(commands, isExit ? '/exit' : content);
        if (reply === undefined) break;
        say(reply);
      } else if (content !== '') {
        const answered = new Promise<void>((stopped) => {
          stop = stopped;
        });
        await answer(session, content, output, answered);
        if (session.forgottenTurns > forgotten) {
          say(
            `(${counted(session.forgottenTurns, 'older turn')} left out of the prompt to fit the model's context. /reset starts over.)`,
          );
        }
      }
    } catch (error) {
      if (!(error instanceof TfjsLoraError)) throw error;
      say(error.message);
    } finally {
      stop = undefined;
    }
    ask(lines, isTerminal, message);
  }
  lines.close();
  if (isTerminal) say('');
}

function ask(lines: Interface, isTerminal: boolean, message: string): void {
  if (!isTerminal) return;
  lines.setPrompt(message === '' ? PROMPT : '… ');
  lines.prompt();
}

/** Writes an answer as it is generated, until it ends or is stopped. */
async function answer(
  session: ChatSession,
  content: string,
  output: NodeJS.WritableStream,
  stopped: Promise<void>,
): Promise<void> {
  let isStopped = false;
  void stopped.then(() => {
    isStopped = true;
  });
  for await (const piece of session.send(content)) {
    output.write(piece);
    if (isStopped) break;
  }
  output.write(isStopped ? ' (stopped)\n\n' : '\n\n');
}

function chatCommands(
  model: CausalLM,
  session: ChatSession,
  {folderOf = async (name) => name}: ChatLoopOptions,
): Map<string, ChatCommand> {
  const useAdapter = async (name: string): Promise<string> => {
    if (name === '') return describeAdapters(model);
    if (name === 'none') {
      if (model.adapterNames.length > 0) model.setAdapter([]);
      return 'Now using the base without an adapter.';
    }
    if (!model.adapterNames.includes(name)) {
      const folder = await folderOf(name);
      await assertAdapterFolder(model, name, folder);
      const adapterName = adapterNameOf(folder, model.adapterNames);
      await model.loadAdapter(folder, {adapterName});
      return `Loaded ${adapterName}. Now using it.`;
    }
    model.setAdapter(name);
    return `Now using ${name}.`;
  };
  const commands: [string, ChatCommand][] = [
    [
      'adapter',
      {
        usage: '/adapter [name | folder | none]',
        description: 'show or choose the adapter; a folder is loaded first',
        run: useAdapter,
      },
    ],
    [
      'system',
      {
        usage: '/system [text | none]',
        description: 'show, set or remove the system message',
        run: (text) => {
          if (text !== '') session.system = text === 'none' ? undefined : text;
          return session.system === undefined ? 'No system message.' : `System message: ${session.system}`;
        },
      },
    ],
    [
      'reset',
      {
        usage: '/reset',
        description: 'clear the conversation',
        run: () => {
          session.reset();
          return 'Cleared the conversation.';
        },
      },
    ],
    ['help', {usage: '/help', description: 'show these commands', run: () => help(commands)}],
    ['exit', {usage: '/exit', description: 'end the chat, as Ctrl-D does', run: () => undefined}],
  ];
  return new Map(commands);
}

function help(commands: [string, ChatCommand][]): string {
  const width = Math.max(...commands.map(([, {usage}]) => usage.length));
  return [
    ...commands.map(([, {usage, description}]) => `${usage.padEnd(width)}  ${description}`),
    'End a line with \\ to continue it on the next line. Ctrl-C stops an answer.',
  ].join('\n');
}

/** Names that commands have in other programs. */
const ALIASES: ReadonlyMap<string, string> = new Map([
  ['quit', 'exit'],
  ['bye', 'exit'],
  ['clear', 'reset'],
  ['?', 'help'],
]);

function runCommand(
  commands: Map<string, ChatCommand>,
  line: string,
): string | undefined | Promise<string | undefined> {
  const [, name, argument] = /^\/(\S*)\s*(.*)$/s.exec(line) as unknown as [string, string, string];
  const command = commands.get(ALIASES.get(name) ?? name);
  if (command) return command.run(argument);
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `/${name}: expected a command, got an unknown one.${didYouMean(name, commands.keys())} /help shows all.` +
      (isRecipeKey(name) ? ` Set ${name} when the chat starts: tfjs-lora chat <model> ${name}=<value>.` : ''),
  );
}

async function assertAdapterFolder({adapterNames}: CausalLM, name: string, folder: string): Promise<void> {
  const isThere = await stat(folder).then(
    (entry) => entry.isDirectory(),
    () => false,
  );
  if (isThere) return;
  throw new TfjsLoraError(
    'UNKNOWN_ADAPTER',
    `/adapter ${name}: expected ${adapterNames.length > 0 ? `one of ${adapterNames.join(', ')}, or ` : ''}` +
      'the folder of an adapter, got neither.',
  );
}

function describeModel(model: CausalLM): string {
  const adapters = model.adapterNames.length > 0 ? ` with ${describeAdapters(model)}` : '';
  return `${basename(resolve(model.nameOrPath || 'model'))}${adapters}`;
}

function describeAdapters({adapterNames, activeAdapters}: CausalLM): string {
  if (adapterNames.length === 0) return 'No adapter is loaded.';
  const names = adapterNames.map((name) => (activeAdapters.includes(name) ? `${name} (active)` : name));
  return `adapters: ${names.join(', ')}`;
}

import {Command, CommanderError, Option} from 'commander';
import packageJson from '../../../package.json';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {keepSecretsOf, maskSecrets} from '../../../quant/maskSecrets.ts';
import {setWarningHandler} from '../../../quant/warn.ts';
import {BACKEND_NAMES} from '../../training/backends/useBackend.ts';
import {printAboveProgress} from '../../training/callbacks/progressBar.ts';
import {bold, red} from './colors.ts';
import type {CommonOptions} from './commandOptions.ts';
import {register as chat} from './commands/chat.ts';
import {register as completion} from './commands/completion.ts';
import {register as doctor} from './commands/doctor.ts';
import {register as download} from './commands/download.ts';
import {register as evaluating} from './commands/eval.ts';
import {register as exporting} from './commands/export.ts';
import {register as quantize} from './commands/quantize.ts';
import {register as quickstart} from './commands/quickstart.ts';
import {register as serve} from './commands/serve.ts';
import {register as setup} from './commands/setup.ts';
import {register as train} from './commands/train.ts';
import {ExitStatus} from './exitStatus.ts';
import {withForeignAdvice} from './foreignAdvice.ts';
import {importExtension} from './importExtension.ts';
import {withExamples} from './withExamples.ts';

/** Errors of the system that a stack trace would not explain: no space, no permission, no such file. */
const MACHINE_ERRORS = ['ENOENT', 'EACCES', 'EPERM', 'ENOSPC', 'EROFS', 'ENOTDIR', 'EISDIR', 'EADDRINUSE'];

/**
 * Runs one command line.
 *
 * @param args arguments without the interpreter and the program's name
 * @returns the exit status: 0; 2 for a user's mistake, with only its message on standard error; 1 for an internal error
 */
export async function runCli(args: readonly string[]): Promise<number> {
  keepSecretsOf(process.env);
  const program = createProgram({hasVersionOption: !args.includes('setup')});
  const warned = new Set<string>(); // a command opens its files several times
  const before = setWarningHandler((message) => {
    if (!warned.has(message)) printAboveProgress(process.stderr, message);
    warned.add(message);
  });
  try {
    await program.parseAsync(args, {from: 'user'});
    return 0;
  } catch (error) {
    return statusOf(error, program.opts<CommonOptions>().debug);
  } finally {
    setWarningHandler(before);
  }
}

/**
 * Makes the program with its commands, without running any.
 *
 * @param hasVersionOption whether the program has `--version`. It would take precedence over `setup`'s own option.
 *   Default true
 */
export function createProgram({hasVersionOption = true} = {}): Command {
  const program: Command = new Command('tfjs-lora')
    .description(
      'Fine-tune Llama with LoRA and QLoRA on TensorFlow.js, with recipes in the format of LLaMA-Factory.',
    )
    .option('--debug', 'show the stack of an error', false)
    .addOption(
      new Option('--backend <name>', 'backend that runs the computations')
        .choices(['auto', ...BACKEND_NAMES])
        .default('auto'),
    )
    .option(
      '--import <module>',
      'import a module that extends tfjs-lora, by its path or the name of its package; may be repeated',
      (module: string, before: string[]) => [...before, module],
      [],
    )
    .hook('preAction', async () => {
      for (const module of program.opts<CommonOptions>().import) await importExtension(module);
    })
    // The commands below inherit the rest.
    .configureHelp({showGlobalOptions: true, styleTitle: bold})
    .showHelpAfterError('Add --help for the usage.')
    .exitOverride();
  if (hasVersionOption) program.version(packageJson.version);
  const commands = [
    train,
    evaluating,
    exporting,
    quantize,
    chat,
    serve,
    download,
    setup,
    doctor,
    quickstart,
    completion,
  ];
  for (const register of commands) register(program);
  for (const command of [program, ...program.commands]) {
    command.configureOutput({outputError: (text, write) => write(red(withForeignAdvice(text, command)))});
  }
  return withExamples(
    program,
    ['tfjs-lora quickstart', 'fine-tune the small Llama in this package'],
    ['tfjs-lora train recipe.yaml', 'run a recipe'],
    ['tfjs-lora train --help', 'show the options and examples of a command'],
  );
}

/** Prints an error to standard error and returns its exit status. */
export function statusOf(error: unknown, debug: boolean): number {
  if (error instanceof ExitStatus) return error.status;
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2; // its message is already printed
  const isUsers =
    error instanceof TfjsLoraError || MACHINE_ERRORS.includes((error as NodeJS.ErrnoException)?.code ?? '');
  const text = maskSecrets(String(error instanceof Error ? (debug ? error.stack : error.message) : error));
  const advice = debug ? '' : '\nThis is a bug in tfjs-lora; --debug shows the stack.';
  console.error(red(isUsers ? text : `tfjs-lora failed: ${text}${advice}`));
  return isUsers ? 2 : 1;
}

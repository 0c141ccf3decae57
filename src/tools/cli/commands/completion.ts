import {Argument, type Command} from 'commander';
import {COMPLETION_SCRIPTS, type Shell} from '../completionScripts.ts';
import {withExamples} from '../withExamples.ts';

export function register(program: Command): void {
  const completion = program
    .command('completion')
    .description('Print a script that completes commands, options and recipe keys in a shell.')
    .addArgument(new Argument('<shell>', 'the shell').choices(Object.keys(COMPLETION_SCRIPTS)))
    .action((shell: Shell) => console.log(COMPLETION_SCRIPTS[shell](program)));
  withExamples(
    completion,
    ['tfjs-lora completion bash >> ~/.bashrc', 'bash, from the next shell on'],
    ['tfjs-lora completion zsh > ~/.zfunc/_tfjs-lora', 'zsh, if ~/.zfunc is in its fpath'],
    ['tfjs-lora completion fish > ~/.config/fish/completions/tfjs-lora.fish', 'fish'],
  );
}

import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {join} from 'node:path';
import type {Command} from 'commander';
import {packageFolder} from '../../../training/backends/packageFolder.ts';
import type {CommonOptions} from '../commandOptions.ts';
import {ExitStatus} from '../exitStatus.ts';
import {withExamples} from '../withExamples.ts';

export function register(program: Command): void {
  const quickstart = program
    .command('quickstart')
    .description('Fine-tune the small Llama in this package to summarise bills, and measure the result.')
    .argument('[settings...]', 'such as --rank 16 --epochs 3; see examples/README.md')
    .allowUnknownOption()
    .action(async (settings: string[], _options: unknown, command: Command) => {
      const {backend} = command.optsWithGlobals<CommonOptions>();
      const root = await packageFolder();
      // From the sources, this runs the example's sources; the package contains the compiled example.
      const script = import.meta.url.endsWith('.ts')
        ? join(root, 'examples/quickstart/quickstart.ts')
        : join(root, 'dist/examples/quickstart.js');
      const model = ['--model', join(root, 'examples/quickstart/model')];
      const chosen = backend === 'auto' ? [] : ['--backend', backend];
      const args = [...process.execArgv, script, ...model, ...chosen, ...settings];
      const [status] = await once(spawn(process.execPath, args, {stdio: 'inherit'}), 'exit');
      if (status !== 0) throw new ExitStatus(status ?? 1);
    });
  withExamples(
    quickstart,
    [
      'tfjs-lora quickstart',
      'train, measure before and after, and write the adapter and a plot to out/quickstart',
    ],
    ['tfjs-lora quickstart --rank 16 --epochs 3', 'use other settings'],
  );
}

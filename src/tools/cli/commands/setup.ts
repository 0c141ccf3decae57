import type {Command} from 'commander';
import {setupTensorFlow} from '../../setup/setupTensorFlow.ts';
import {withExamples} from '../withExamples.ts';

export function register(program: Command): void {
  const setup = program.command('setup').description('Install a backend that npm does not install.');
  const tensorflow = setup
    .command('tensorflow')
    .description('Install native TensorFlow: download its library, build the addon, and test it.')
    .option('--gpu', 'for an NVIDIA card: TensorFlow with CUDA, and NVIDIA’s libraries', false)
    .option(
      '--from <source>',
      'auto, official (the installer of tfjs-node), wheel (a Python wheel), or a folder',
      'auto',
    )
    .option('--version <version>', 'version of TensorFlow (default: the installer’s, or the newest wheel)')
    .action(async ({gpu, from, version}: {gpu: boolean; from: string; version?: string}) => {
      const onProgress = (line: string) => console.error(line);
      const {
        version: installed,
        gpu: isOnGpu,
        milliseconds,
        fusedOps,
      } = await setupTensorFlow({
        gpu,
        from,
        version,
        environment: process.env,
        execPath: process.execPath,
        onProgress,
      });
      console.log(
        `TensorFlow ${installed}, on the ${isOnGpu ? 'GPU' : 'CPU'}${fusedOps?.sources ? ' with fused ops' : ''}, loaded and multiplied in ${(milliseconds / 1000).toFixed(1)} s. ` +
          "useBackend('tensorflow') now uses it.",
      );
    });
  const examples: [string, string][] = [
    ['tfjs-lora setup tensorflow', 'for a processor'],
    ['tfjs-lora setup tensorflow --gpu', 'for an NVIDIA card'],
  ];
  for (const each of [setup, tensorflow]) withExamples(each, ...examples);
}

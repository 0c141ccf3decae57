import type {Command} from 'commander';
import {huggingFaceEnvironment} from '../../../data/hub/hubOptions.ts';
import {putIntoFolder} from '../../../data/hub/putIntoFolder.ts';
import {resolveModelFolder} from '../../../data/hub/resolveModelFolder.ts';
import {downloadLine} from '../downloadLine.ts';
import {withExamples} from '../withExamples.ts';

export function register(program: Command): void {
  const download = program
    .command('download')
    .description('Download a model or an adapter from the Hugging Face hub, and print its folder.')
    .argument('<name>', 'name on the hub, such as meta-llama/Llama-3.2-1B-Instruct')
    .argument('[folder]', 'folder for the files (default: only the standard hub cache)')
    .option('--revision <name>', 'branch, tag or commit', 'main')
    .option('--cache-dir <folder>', 'folder of the cache (default: the standard hub cache)')
    .option('--token <token>', 'token for private models (default: HF_TOKEN)')
    .action(
      async (
        name: string,
        folder: string | undefined,
        {revision, cacheDir, token}: Record<string, string | undefined>,
      ) => {
        const {hub} = huggingFaceEnvironment(process.env);
        const given = {
          ...(cacheDir && {cacheDir}),
          ...(token && {token}),
          revision,
          onProgress: downloadLine(),
        };
        const snapshot = await resolveModelFolder(name, {...hub, ...given});
        if (folder !== undefined) await putIntoFolder(snapshot, folder);
        console.log(folder ?? snapshot);
      },
    );
  withExamples(download, [
    'tfjs-lora download meta-llama/Llama-3.2-1B-Instruct Llama-3.2-1B-Instruct',
    'download a model into a folder, with HF_TOKEN if it is gated',
  ]);
}

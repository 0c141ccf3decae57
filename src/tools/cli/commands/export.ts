import {type Command, Option} from 'commander';
import {GGUF_FILE_TYPES} from '../../../../models/gguf/ggufFileType.ts';
import {ADAPTER_FILE_TYPES} from '../../../../models/gguf/saveAdapterGguf.ts';
import {counted} from '../../../../quant/counted.ts';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import {useBackend} from '../../../training/backends/useBackend.ts';
import {formatBytes} from '../../../training/run/formatBytes.ts';
import {exportModel} from '../../recipes/exportModel.ts';
import {modelInUse} from '../../recipes/modelInUse.ts';
import {adapterFolderOf, folderOf} from '../../recipes/openModel.ts';
import {loadRecipe} from '../../recipes/recipe.ts';
import type {CommonOptions} from '../commandOptions.ts';
import {progressLine} from '../progressLine.ts';
import {withExamples} from '../withExamples.ts';

interface GgufOptions {
  gguf?: string;
  ggufAdapter?: string;
}

/** Returns the recipe keys that the options are short for. */
function ggufOverrides({gguf, ggufAdapter}: GgufOptions): string[] {
  const type = ggufAdapter ?? gguf;
  if (type === undefined) return [];
  return [`export_format=${ggufAdapter ? 'gguf_adapter' : 'gguf'}`, `export_gguf_type=${type}`];
}

export function register(program: Command): void {
  const exporting = program
    .command('export')
    .description("Merge a recipe's adapters into its model and write a Hugging Face folder, or a GGUF file.")
    .argument('<recipe>', 'a YAML file with model_name_or_path, adapter_name_or_path and export_dir')
    .argument('[key=value...]', 'recipe keys that override the file')
    .option('--gguf <type>', `write a GGUF file of this type: ${GGUF_FILE_TYPES.join(', ')}`)
    .addOption(
      new Option(
        '--gguf-adapter <type>',
        `write the adapter alone as a GGUF file of this type: ${ADAPTER_FILE_TYPES.join(', ')}`,
      ).conflicts('gguf'),
    )
    .action(async (path: string, given: string[], options: GgufOptions, command: Command) => {
      const {backend} = command.optsWithGlobals<CommonOptions>();
      const overrides = [...given, ...ggufOverrides(options)];
      const recipe = await modelInUse(await loadRecipe(path, overrides, 'use'));
      const {
        model,
        export: {exportDir, ...args},
        data,
      } = recipe;
      if (exportDir === undefined) {
        throw new TfjsLoraError('INVALID_CONFIG', `${path} export_dir: expected a folder, got none`);
      }
      await useBackend(backend);
      const {files, bytes, dtype, ggufType} = await exportModel({
        model: await folderOf(model.nameOrPath, recipe),
        modelName: model.nameOrPath,
        adapters: await Promise.all(model.adapters.map((adapter) => adapterFolderOf(adapter, recipe))),
        ...args,
        exportDir,
        template: data.template,
        defaultSystem: data.defaultSystem,
        quantization: model.quantization,
        onProgress: ({phase, done, total}) => progressLine(`${phase} the model`, done, total),
      });
      const isMerged = model.adapters.length > 0 && args.format !== 'gguf_adapter';
      const merged = isMerged ? `, ${model.adapters.join(' and ')} merged in` : '';
      const parts = counted(files.length, 'file');
      console.log(`${exportDir}: ${formatBytes(bytes)} of ${ggufType ?? dtype} in ${parts}${merged}`);
    });
  withExamples(
    exporting,
    ['tfjs-lora export recipe.yaml export_dir=merged', "merge the recipe's adapter into its model"],
    [
      'tfjs-lora export recipe.yaml export_dir=merged --gguf q4_k_m',
      'write the merged model as a GGUF file for llama.cpp and Ollama',
    ],
    [
      'tfjs-lora export recipe.yaml export_dir=exported --gguf-adapter f16',
      "write the recipe's adapter alone, for llama.cpp's --lora",
    ],
  );
}

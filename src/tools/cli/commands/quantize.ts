import {type Command, Option} from 'commander';
import type {QuantizationType} from '../../../../layers/quantizationArgs.ts';
import {readOnlyError} from '../../../../quant/quantizer.ts';
import {getQuantizer, isFourBitType, quantizingNames} from '../../../../quant/quantizerRegistry.ts';
import {huggingFaceEnvironment} from '../../../data/hub/hubOptions.ts';
import {resolveModelFolder} from '../../../data/hub/resolveModelFolder.ts';
import {AutoModelForCausalLM} from '../../../training/autoModelForCausalLM.ts';
import {useBackend} from '../../../training/backends/useBackend.ts';
import {type CommonOptions, positiveNumber} from '../commandOptions.ts';
import {progressLine} from '../progressLine.ts';
import {withExamples} from '../withExamples.ts';

interface QuantizeOptions extends CommonOptions {
  type: QuantizationType;
  blockSize?: number;
  doubleQuant: boolean;
  skip: string[];
  shardSize: number;
}

export function register(program: Command): void {
  const quantize = program
    .command('quantize')
    .description(
      "Write a model with its linear layers quantized, in bitsandbytes' format or that of an extension.",
    )
    .argument('<model>', 'a Hugging Face folder, or the name of a model on the hub')
    .argument('<folder>', 'folder for the quantized model')
    .addOption(typeOption())
    .option('--block-size <n>', '4 bits: number of weights that share a scale (default: 64)', positiveNumber)
    .option('--no-double-quant', '4 bits: keep the scales in float32')
    .option('--skip <names...>', 'layers that are not quantized', ['lm_head'])
    .option('--shard-size <GB>', 'size of the largest file', positiveNumber, 5)
    .action(async (name: string, folder: string, _options: unknown, command: Command) => {
      const {backend, type, blockSize, doubleQuant, skip, shardSize} =
        command.optsWithGlobals<QuantizeOptions>();
      if (getQuantizer(type).isReadOnly) throw readOnlyError(type, '--type'); // before a backend is started
      await useBackend(backend);
      const model = await AutoModelForCausalLM.fromPretrained(
        await resolveModelFolder(name, huggingFaceEnvironment(process.env).hub),
        {
          quantization: {type, skipModules: skip, blockSize, ...(isFourBitType(type) && {doubleQuant})},
          onProgress: ({loaded, total}) => progressLine('quantizing the model', loaded, total),
        },
      );
      try {
        await model.save(folder, {
          maxShardBytes: shardSize * 1e9,
          onProgress: ({done, total}) => progressLine('saving the model', done, total),
        });
        console.log(`${folder}: ${type}, ${(model.byteLength / 1e6).toFixed(1)} MB of weights`);
      } finally {
        model.dispose();
      }
    });
  withExamples(
    quantize,
    [
      'tfjs-lora quantize Llama-3.2-1B-Instruct Llama-3.2-1B-nf4',
      'write the model in NF4 with double quantization',
    ],
    ['tfjs-lora quantize Llama-3.2-1B-Instruct Llama-3.2-1B-int8 --type int8', 'write it in 8 bits'],
  );
}

/** Makes the option for the type, which shows the built-in names but accepts those that extensions register. */
function typeOption(): Option {
  const option = new Option('--type <name>', 'format of the weights').default('nf4');
  option.argChoices = quantizingNames();
  return option;
}

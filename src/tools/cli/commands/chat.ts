import type {Command} from 'commander';
import {useBackend} from '../../../training/backends/useBackend.ts';
import {ChatSession} from '../../chat/chatSession.ts';
import {describeModel, modelInUse} from '../../recipes/modelInUse.ts';
import {openForChat} from '../../recipes/openForChat.ts';
import {adapterFolderOf} from '../../recipes/openModel.ts';
import {recipeOf} from '../../recipes/recipeOf.ts';
import {chatLoop} from '../chatLoop.ts';
import type {CommonOptions} from '../commandOptions.ts';
import {loadingLine} from '../progressLine.ts';
import {withExamples} from '../withExamples.ts';

export function register(program: Command): void {
  const chat = program
    .command('chat')
    .description('Chat with a model, with or without its adapters.')
    .argument('<model>', "a recipe, a model's folder, or its name on the hub")
    .argument('[key=value...]', 'recipe keys, such as adapter_name_or_path=saves/lora temperature=0.7')
    .option('--system <text>', 'system message')
    .action(async (target: string, overrides: string[], _options: unknown, command: Command) => {
      const {backend, system} = command.optsWithGlobals<CommonOptions & {system?: string}>();
      const recipe = await modelInUse(await recipeOf(target, overrides));
      if (recipe.tasks.train) console.error(describeModel(recipe));
      await useBackend(backend);
      const {model, encodeChat, generation} = await openForChat(recipe, loadingLine);
      try {
        await chatLoop(model, new ChatSession(model, {system, encodeChat, ...generation}), {
          input: process.stdin,
          output: process.stdout,
          isTerminal: process.stdin.isTTY && process.stdout.isTTY,
          folderOf: (name) => adapterFolderOf(name, recipe, '/adapter'),
        });
      } finally {
        model.dispose();
      }
    });
  withExamples(
    chat,
    ['tfjs-lora chat Llama-3.2-1B-Instruct', 'chat with a model'],
    [
      "tfjs-lora chat recipe.yaml temperature=0.7 --system 'Answer in one sentence.'",
      'chat with the model that a recipe trained',
    ],
  );
}

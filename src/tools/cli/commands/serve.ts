import {type Command, InvalidArgumentError, Option} from 'commander';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import {useBackend} from '../../../training/backends/useBackend.ts';
import {describeModel, modelInUse} from '../../recipes/modelInUse.ts';
import {loadNamedAdapters, openForChat} from '../../recipes/openForChat.ts';
import {recipeOf} from '../../recipes/recipeOf.ts';
import {type RequestReport, serveModel} from '../../serve/serveModel.ts';
import {type CommonOptions, separateOverrides} from '../commandOptions.ts';
import {loadingLine} from '../progressLine.ts';
import {withExamples} from '../withExamples.ts';

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

interface ServeCommandOptions extends CommonOptions {
  host: string;
  port: number;
  modelName?: string;
  apiKey?: string;
  maxBatchSize: number;
  allowAdapterChanges?: boolean;
  adapter: string[];
}

export function register(program: Command): void {
  const serve = program
    .command('serve')
    .description("Serve a model with OpenAI's API: /v1/chat/completions, /v1/completions, /v1/models.")
    .argument('<model>', "a recipe, a model's folder, or its name on the hub")
    .argument('[key=value...]', 'recipe keys, such as adapter_name_or_path=saves/lora template=llama3')
    .option('--host <address>', 'address to listen on; 0.0.0.0 also accepts other machines', '127.0.0.1')
    .option('--port <number>', 'port to listen on; 0 for any free port', portOf, 8000)
    .option('--model-name <name>', 'name of the base in requests (default: its folder)')
    .option('--adapter <name=folder...>', 'more adapters; requests choose them by name', [])
    .option('--max-batch-size <number>', 'largest number of requests to answer together', countOf, 8)
    .option('--allow-adapter-changes', 'let requests load adapters from this machine, and unload them')
    .addOption(new Option('--api-key <key>', 'key that every request must have').env('TFJS_LORA_API_KEY'))
    .action(async (target: string, overrides: string[], _options: unknown, command: Command) => {
      const {backend, adapter, ...options} = command.optsWithGlobals<ServeCommandOptions>();
      const {host, port, modelName, apiKey, maxBatchSize, allowAdapterChanges} = options;
      const adapters = separateOverrides(adapter);
      const recipe = await modelInUse(await recipeOf(target, [...overrides, ...adapters.overrides]));
      if (recipe.tasks.train) console.error(describeModel(recipe));
      await useBackend(backend);
      const {model, encodeChat} = await openForChat(recipe, loadingLine);
      try {
        await loadNamedAdapters(model, adapters.own, recipe);
        const server = await serveModel(model, {
          host,
          port,
          modelName,
          apiKey,
          maxBatchSize,
          allowAdapterChanges,
          encodeChat,
          onRequest: report,
        }).catch((error) => {
          throw error.code === 'EADDRINUSE' ? portInUse(port) : error;
        });
        console.log(`serving ${server.models.join(', ')} at ${server.url}`);
        await askedToEnd();
        await server.close();
      } finally {
        model.dispose();
      }
    });
  withExamples(
    serve,
    [
      'tfjs-lora serve Llama-3.2-1B-Instruct --adapter legal=saves/legal',
      'serve a model and an adapter at http://127.0.0.1:8000/v1',
    ],
    [
      'tfjs-lora serve recipe.yaml --host 0.0.0.0 --api-key secret',
      'accept other machines that send the key',
    ],
  );
}

/** Resolves at the first Ctrl-C or SIGTERM. The second one ends the process immediately. */
function askedToEnd(): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      for (const signal of SIGNALS) process.removeListener(signal, end);
      resolve();
    };
    for (const signal of SIGNALS) process.on(signal, end);
  });
}

function portOf(text: string): number {
  const port = Number(text);
  if (/^\d+$/.test(text) && port < 65536) return port;
  throw new InvalidArgumentError('Expected a number from 0 to 65535.');
}

function countOf(text: string): number {
  const count = Number(text);
  if (Number.isSafeInteger(count) && count > 0) return count;
  throw new InvalidArgumentError('Expected a whole number from 1.');
}

function report({method, path, status, error, promptTokens, completionTokens, seconds}: RequestReport): void {
  const tokens = promptTokens === undefined ? '' : ` ${promptTokens} + ${completionTokens} tokens`;
  const fault = error === undefined ? '' : ` ${error}`;
  console.error(
    `${new Date().toISOString()} ${method} ${path} ${status}${tokens} ${seconds.toFixed(2)} s${fault}`,
  );
}

function portInUse(port: number): TfjsLoraError {
  return new TfjsLoraError(
    'INVALID_ARGUMENT',
    `serve --port ${port}: expected a free port, got one that another program uses. Choose another; 0 takes any free one.`,
  );
}

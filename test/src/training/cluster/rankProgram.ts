/**
 * One rank of tiny trainings, in a separate process: `rankProgram.ts <JSON of RankTask[]>`. Prints a
 * line of JSON for each task: {@link RankResult}.
 */
import {createHash} from 'node:crypto';
import {
  AdamW,
  type BackendName,
  type Example,
  type FitArgs,
  joinCluster,
  Llama,
  packSequences,
  setWarningHandler,
  TfjsLoraError,
  useBackend,
} from '../../../../src/index.ts';

export interface RankTask {
  name: string;
  fit?: FitArgs;
  backend?: BackendName;
  quantized?: boolean;
  packed?: boolean;
  dropout?: number;
  /** Seed of the adapter, by rank. Default 5 on all. */
  seeds?: number[];
  /** What a rank does to itself before a step. */
  fault?: {rank: number; step: number; how: 'kill' | 'stop' | 'spin' | 'throw'};
  /** Seconds until a reduction times out. */
  timeout?: number;
}

export interface RankResult {
  name: string;
  rank: number;
  size: number;
  losses: number[];
  adapter: string;
  evaluation?: number;
  error?: {code: string; message: string};
}

const config = {
  vocabSize: 64,
  hiddenSize: 64,
  intermediateSize: 64,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 64,
  initializerRange: 0.3,
};
/** Examples of 3 to 31 tokens: their number is no multiple of any batch. */
const examples: Example[] = Array.from({length: 61}, (_, i) => ({
  inputIds: Array.from({length: 3 + ((i * 7) % 29)}, (_, t) => (1 + t * (2 * i + 3)) % 64),
}));

async function run(task: RankTask, rank: number): Promise<Omit<RankResult, 'name' | 'size' | 'rank'>> {
  const model = Llama.fromConfig(config, {seed: 3});
  if (task.quantized) await model.quantize({type: 'nf4', doubleQuant: true});
  model.applyLoRA({rank: 2, alpha: 4, dropout: task.dropout ?? 0, seed: task.seeds?.[rank] ?? 5});
  model.compile({
    optimizer: new AdamW({learningRate: 0.01}),
    schedule: {name: 'cosine', warmupRatio: 0.1},
    maxGradNorm: 1,
  });
  const data = task.packed ? packSequences(examples, 48) : examples;
  const losses: number[] = [];
  const {fault} = task;
  try {
    const history = await model.fitDataset(data, {
      validationData: examples.slice(0, 7),
      verbose: 0,
      ...task.fit,
      callbacks: {
        onStepBegin: (step) => {
          if (fault?.rank === rank && fault.step === step) fail(fault.how);
        },
        onStepEnd: ({loss}) => {
          losses.push(loss);
          process.stdout.write(`step ${losses.length}\n`);
        },
      },
    });
    const hash = createHash('sha256');
    for (const variable of model.trainableParameters().values())
      hash.update((await variable.data()) as Float32Array);
    return {losses, adapter: hash.digest('hex'), evaluation: history.validationLoss.at(-1)};
  } catch (error) {
    const {code, message} = error as TfjsLoraError;
    return {losses, adapter: '', error: {code, message}};
  } finally {
    model.dispose();
  }
}

function fail(how: 'kill' | 'stop' | 'spin' | 'throw'): void {
  if (how === 'kill') process.kill(process.pid, 'SIGKILL');
  if (how === 'stop') process.kill(process.pid, 'SIGSTOP');
  if (how === 'throw') throw new TfjsLoraError('INSUFFICIENT_MEMORY', 'rank program: no memory is left');
  const end = Date.now() + 60_000;
  while (how === 'spin' && Date.now() < end);
}

async function main(): Promise<void> {
  setWarningHandler(() => {});
  const tasks = JSON.parse(process.argv[2]) as RankTask[];
  const {rank, size} = await joinCluster({timeout: tasks[0].timeout});
  await useBackend(tasks[0].backend ?? 'tensorflow');
  for (const task of tasks) {
    const result: RankResult = {name: task.name, rank, size, ...(await run(task, rank))};
    process.stdout.write(`${JSON.stringify(result)}\n`);
    if (result.error) return;
  }
}
void main();

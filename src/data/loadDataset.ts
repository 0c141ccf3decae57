import {join} from 'node:path';
import {letSignalsThrough} from '../../models/letSignalsThrough.ts';
import {counted} from '../../quant/counted.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import {warn} from '../../quant/warn.ts';
import type {Example, PairExample} from './batches/collate.ts';
import {convertRecord} from './datasets/convertRecord.ts';
import {
  DATASET_OPTIONS,
  type DatasetArgs,
  type DatasetPlan,
  KIND_OF_STAGE,
  namesIn,
  resolveDatasetArgs,
} from './datasets/datasetArgs.ts';
import {
  type DatasetSource,
  findSources,
  hubSource,
  insideRepository,
  readDatasetInfo,
} from './datasets/datasetInfo.ts';
import {mixDatasets} from './datasets/mixDatasets.ts';
import {NumpyRandom} from './datasets/numpyRandom.ts';
import {type OpenDataset, openDataset, recordsOf} from './datasets/openDataset.ts';
import {epochSeed, shuffleBuffer} from './datasets/shuffleBuffer.ts';
import type {SourceRecord} from './datasets/sourceRecord.ts';
import {splitValidation} from './datasets/splitValidation.ts';
import {fetchSnapshot} from './hub/fetchSnapshot.ts';
import type {HubOptions} from './hub/hubOptions.ts';
import {HUB_OPTIONS} from './hub/hubOptions.ts';
import {encodeSettings} from './preprocessing/encodeConversation.ts';
import {encodeAll, makeExamples, streamExamples} from './preprocessing/makeExamples.ts';
import {type PromptExample, promptExample} from './preprocessing/promptExample.ts';
import type {Conversation} from './templates/conversation.ts';

/** Starts a pass over streamed data, in an order that depends on the seed and the epoch. */
export type ExampleStream<T = Example> = (epoch?: number) => AsyncGenerator<T, void, undefined>;

/** With this stage, examples are pairs. */
type Pairs = {stage: 'dpo' | 'rm'};

export interface SplitArgs extends DatasetArgs {
  /** Names of data sets to validate on. Default: none. */
  evaluationDataset?: string | string[];
  /** Part of the training data to validate on instead: a fraction below 1, or a count from 1. Default 0. */
  valSize?: number;
}
const SPLIT_OPTIONS = {
  ...DATASET_OPTIONS,
  evaluationDataset: true,
  valSize: true,
} satisfies OptionNames<SplitArgs>;

/** Number of records of a stream after which a named column that none of them had causes a warning. */
const WATCHED_RECORDS = 1000;

const INFO_FILE = 'dataset_info.json';

/**
 * Loads data sets as LLaMA-Factory does: records → conversations → one mixture → token ids → packs.
 *
 * @returns a list; with `streaming`, a function that reads the files again in each epoch
 * @throws TfjsLoraError naming the setting, the entry of `dataset_info.json`, or the file, record and column
 * @example
 * ```ts
 * import {loadDataset, Tokenizer} from 'tfjs-lora';
 *
 * const tokenizer = await Tokenizer.fromFolder('Llama-3.2-1B-Instruct');
 * const examples = await loadDataset({dataset: 'summaries', datasetDir: 'data', template: 'llama3', tokenizer});
 * ```
 */
export function loadDataset(
  args: DatasetArgs & Pairs & {streaming: true},
): Promise<ExampleStream<PairExample>>;
export function loadDataset(args: DatasetArgs & Pairs & {streaming?: false}): Promise<PairExample[]>;
export function loadDataset(args: DatasetArgs & {streaming: true}): Promise<ExampleStream>;
export function loadDataset(args: DatasetArgs & {streaming?: false}): Promise<Example[]>;
export function loadDataset(args: DatasetArgs): Promise<Example[] | ExampleStream>;
export async function loadDataset(
  args: DatasetArgs,
): Promise<Example[] | ExampleStream | PairExample[] | ExampleStream<PairExample>> {
  assertDatasetOptions('loadDataset', args, DATASET_OPTIONS);
  return (await loadSplits(args)).train;
}

/**
 * Loads data to train and to validate on, like {@link loadDataset}. The validation part is taken out of the records
 * before they become examples.
 */
export function loadSplits(
  args: SplitArgs & Pairs & {streaming?: false},
): Promise<{train: PairExample[]; validation: PairExample[]}>;
export function loadSplits(
  args: SplitArgs & {streaming?: false},
): Promise<{train: Example[]; validation: Example[]}>;
export function loadSplits(
  args: SplitArgs,
): Promise<{train: Example[] | ExampleStream; validation: Example[]}>;
export async function loadSplits(args: SplitArgs): Promise<{
  train: Example[] | ExampleStream | PairExample[];
  validation: Example[] | PairExample[];
}> {
  assertDatasetOptions('loadSplits', args, SPLIT_OPTIONS);
  const {valSize = 0} = args;
  const evaluation = namesIn(args.evaluationDataset);
  if (evaluation.length > 0 && valSize > 0) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `dataset valSize: expected either valSize or evaluationDataset, got ${valSize} and ${evaluation.join(', ')}`,
    );
  }
  const plan = resolveDatasetArgs(args);
  const evaluationPlan =
    evaluation.length > 0
      ? resolveDatasetArgs({...args, dataset: evaluation, streaming: false})
      : {...plan, streaming: false};
  const validation = async (conversations: Conversation[]) =>
    conversations.length === 0 ? [] : examplesOf(conversations, evaluationPlan);
  const evaluated = evaluation.length > 0 ? await allConversations(evaluationPlan) : [];
  if (plan.streaming) {
    const heldOut = assertCount(valSize);
    const stream = await conversationStream(plan);
    const split = heldOut > 0 ? await firstOf(stream(0), heldOut) : evaluated;
    return {
      train: (epoch = 0) =>
        streamExamples(without(heldOut > 0 ? split : [], stream(epoch)), plan) as ReturnType<ExampleStream>,
      validation: await validation(split),
    };
  }
  const {train, validation: split} = splitValidation(await allConversations(plan), valSize, plan.seed);
  return {
    train: await examplesOf(train, plan),
    validation: await validation(evaluation.length > 0 ? evaluated : split),
  };
}

/** Makes examples; the overloads above give pairs their type. */
const examplesOf = makeExamples as (conversations: Conversation[], plan: DatasetPlan) => Promise<Example[]>;

/** Loads prompts to answer, truncated as in LLaMA-Factory's prediction. */
export async function loadPrompts(
  args: DatasetArgs & {valSize?: number},
): Promise<Required<PromptExample>[]> {
  assertDatasetOptions('loadPrompts', args, {...DATASET_OPTIONS, valSize: true});
  const plan = resolveDatasetArgs({...args, streaming: false, packing: false, stage: 'sft'});
  const all = await allConversations(plan);
  const valSize = args.valSize ?? 0;
  const chosen = valSize > 0 ? splitValidation(all, valSize, plan.seed).validation : all;
  const usable = chosen.filter(({fault}) => fault === undefined);
  if (usable.length === 0) {
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `dataset ${plan.dataset.join(', ')}: expected prompts, got none out of ${counted(chosen.length, 'record')}.` +
        (chosen[0] ? ` The first: ${chosen[0].source}: ${chosen[0].fault}.` : ''),
    );
  }
  if (usable.length < chosen.length)
    warn(
      `dataset ${plan.dataset.join(', ')}: skipped ${chosen.length - usable.length} of ${counted(chosen.length, 'record')}`,
    );
  const encoded = await encodeAll(usable, plan, encodeSettings(plan, 'prompt'));
  return encoded.map((each) => promptExample(each, plan.tokenizer));
}

function assertDatasetOptions(call: string, args: DatasetArgs, known: OptionNames<object>): void {
  assertKnownOptions(call, args, known, 'required');
  assertKnownOptions(`${call} hub`, args.hub, HUB_OPTIONS);
}

/** Loads the mixture of a plan's data sets into memory. */
async function allConversations(plan: DatasetPlan): Promise<Conversation[]> {
  const lists: Conversation[][] = [];
  for (const dataset of await openDatasets(plan)) lists.push(await readAll(dataset, plan));
  const mixed: Conversation[] = [];
  const readers = lists.map(
    (list) =>
      async function* () {
        yield* list;
      },
  );
  for await (const conversation of mixDatasets(readers, mixture(plan, plan.seed))) mixed.push(conversation);
  return mixed;
}

async function readAll(dataset: OpenDataset, plan: DatasetPlan): Promise<Conversation[]> {
  const {source} = dataset;
  const most = plan.maxSamples ?? Number.POSITIVE_INFINITY;
  let records: SourceRecord[] = [];
  for await (const record of recordsOf(dataset)) {
    records.push(record);
    if (records.length % 1000 === 0) {
      await letSignalsThrough(plan.signal);
      plan.onProgress?.({phase: 'reading', what: source.name, done: records.length});
    }
    if (source.sampleCount === undefined && records.length === most) break;
  }
  if (source.sampleCount !== undefined) {
    assertSampleCount(source, records.length);
    records = sample(records, Math.min(source.sampleCount, most), plan.seed);
  }
  const columns = new ColumnWatch(source);
  const conversations = records.slice(0, most).map((record) => {
    columns.see(record);
    return convertRecord(record, source);
  });
  const missing = columns.missing();
  if (missing && conversations.length > 0) throw new TfjsLoraError('CORRUPT_FILE', missing);
  return conversations;
}

/** A larger count is a mistake that would fill the memory. */
const MOST_TIMES = 1000;

function assertSampleCount({name, sampleCount = 0}: DatasetSource, records: number): void {
  if (sampleCount <= Math.max(1, records) * MOST_TIMES) return;
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `dataset ${name} num_samples: expected at most ${MOST_TIMES} times the number of records (${records}), ` +
      `got ${sampleCount}. Correct it, or train for more epochs.`,
  );
}

/** Draws a number of records in random order; some repeatedly when there are fewer. */
function sample(records: SourceRecord[], count: number, seed: number): SourceRecord[] {
  if (records.length === 0) return records;
  const random = new NumpyRandom(seed);
  const chosen = random.permutation(records.length).slice(0, count);
  while (chosen.length < count) chosen.push(random.integer(records.length));
  return chosen.map((i) => records[i]);
}

async function conversationStream(
  plan: DatasetPlan,
): Promise<(epoch: number) => AsyncGenerator<Conversation, void, undefined>> {
  const datasets = await openDatasets(plan);
  const readers = datasets.map((dataset) => () => readStream(dataset, plan.signal));
  return (epoch) => {
    const seed = epochSeed(plan.seed, epoch);
    return shuffleBuffer(mixDatasets(readers, mixture(plan, seed)), plan.bufferSize, seed);
  };
}

async function* readStream(
  dataset: OpenDataset,
  signal: AbortSignal | undefined,
): AsyncGenerator<Conversation, void, undefined> {
  const columns = new ColumnWatch(dataset.source);
  let seen = 0;
  for await (const record of recordsOf(dataset)) {
    signal?.throwIfAborted();
    columns.see(record);
    const missing = ++seen === WATCHED_RECORDS ? columns.missing() : undefined;
    if (missing) warn(missing);
    yield convertRecord(record, dataset.source);
  }
}

const mixture = ({mixStrategy, interleaveProbs}: DatasetPlan, seed: number | bigint) => ({
  strategy: mixStrategy,
  probabilities: interleaveProbs,
  seed,
});

async function openDatasets(plan: DatasetPlan): Promise<OpenDataset[]> {
  plan.signal?.throwIfAborted();
  const hub: HubOptions = {...plan.hub};
  const signals = [plan.signal, hub.signal].filter((signal) => signal !== undefined);
  if (signals.length > 0) hub.signal = AbortSignal.any(signals);
  hub.onProgress ??= ({repository, file, done, total}) =>
    plan.onProgress?.({phase: 'downloading', what: `${repository} ${file}`, done, total});
  const {sources, folder} = await describeDatasets(plan, hub);
  for (const {name, columns, ranking = false} of sources) {
    if ((columns.kto_tag !== undefined) !== (KIND_OF_STAGE[plan.stage] === 'verdict')) {
      const [needed, got] = columns.kto_tag
        ? ['stage kto', plan.stage]
        : ["a column 'kto_tag' in its entry", 'none'];
      throw new TfjsLoraError(
        'INVALID_CONFIG',
        `dataset ${name}: expected ${needed}, got ${got}. Answers with a verdict and stage kto belong together.`,
      );
    }
    if (ranking === (KIND_OF_STAGE[plan.stage] === 'pair')) continue;
    const [needed, got] = ranking
      ? ['stage dpo or rm', plan.stage]
      : ["'ranking': true in its entry", 'none'];
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `dataset ${name}: expected ${needed}, got ${got}. ` +
        'Pairs of a chosen and a rejected answer and stages dpo and rm belong together.',
    );
  }
  const datasets: OpenDataset[] = [];
  for (const source of sources) datasets.push(await openDataset(source, folder, hub));
  return datasets;
}

async function describeDatasets(
  {dataset, datasetDir}: DatasetPlan,
  hub: HubOptions,
): Promise<{sources: DatasetSource[]; folder: string}> {
  if (typeof datasetDir === 'object')
    return {sources: findSources(dataset, datasetDir, 'datasetDir'), folder: '.'};
  if (datasetDir === 'ONLINE') return {sources: dataset.map(hubSource), folder: '.'};
  const remote = /^REMOTE:(.+)$/.exec(datasetDir)?.[1];
  const folder = remote === undefined ? datasetDir : await remoteInfo(remote, hub);
  const path = join(folder, INFO_FILE);
  const sources = findSources(dataset, await readDatasetInfo(path, dataset), path);
  return {
    sources: remote === undefined ? sources : sources.map((each) => insideRepository(each, remote)),
    folder,
  };
}

async function remoteInfo(id: string, hub: HubOptions): Promise<string> {
  const select = ({paths}: {paths: string[]}) => {
    if (paths.includes(INFO_FILE)) return [INFO_FILE];
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `dataset ${id}: expected ${INFO_FILE}, got ${paths.slice(0, 5).join(', ') || 'no files'}`,
    );
  };
  const repository = {kind: 'dataset', id} as const;
  return (await fetchSnapshot({repository, select, needed: INFO_FILE}, hub)).folder;
}

/** Watches for columns that `dataset_info.json` names and no record has. */
class ColumnWatch {
  private readonly unseen: Set<string>;
  private readonly keys = new Set<string>();

  constructor(private readonly source: DatasetSource) {
    this.unseen = new Set([...source.namedColumns].map((column) => source.columns[column] as string));
  }

  see({value}: SourceRecord): void {
    if (this.unseen.size === 0) return;
    for (const key of Object.keys(value)) {
      this.unseen.delete(key);
      this.keys.add(key);
    }
  }

  missing(): string | undefined {
    const [key] = this.unseen;
    if (key === undefined) return undefined;
    return (
      `dataset ${this.source.name} columns: expected a column '${key}' in some record, got ${[...this.keys].join(', ')}. ` +
      'Correct or leave out the column in dataset_info.json.'
    );
  }
}

function assertCount(valSize: number): number {
  if (valSize === 0 || (Number.isInteger(valSize) && valSize > 0)) return valSize;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `dataset valSize: expected a count when streaming, got ${valSize}`,
  );
}

async function firstOf<T>(items: AsyncGenerator<T>, count: number): Promise<T[]> {
  const first: T[] = [];
  for await (const item of items) {
    first.push(item);
    if (first.length === count) break;
  }
  return first;
}

/** Filters conversations out of a stream, wherever it places them. */
async function* without(
  leftOut: readonly Conversation[],
  conversations: AsyncIterable<Conversation>,
): AsyncGenerator<Conversation, void, undefined> {
  const sources = new Set(leftOut.map(({source}) => source));
  for await (const conversation of conversations) if (!sources.has(conversation.source)) yield conversation;
}

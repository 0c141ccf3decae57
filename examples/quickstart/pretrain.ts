import {rmSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';
import {
  AdamW,
  type Batch,
  type Example,
  Llama,
  learningRateSchedule,
  Tokenizer,
  useBackend,
} from '../../src/index.ts';
import {type PretrainingDocument, PretrainingDocuments} from './pretrainingDocuments.ts';
import {SeededRandom} from './seededRandom.ts';
import {MODEL_MAX_LENGTH} from './trainTokenizer.ts';

/**
 * Pre-trains the quickstart's base model with this library alone: a Llama of a million parameters that has read bills
 * and texts about bills, and can copy a name or an amount, but has never seen a summary.
 *
 *     npx tsx examples/quickstart/trainTokenizer.ts
 *     npx tsx examples/quickstart/pretrain.ts            # writes examples/quickstart/model/
 *
 * So small a model learns to copy from its context within a few million tokens because of three measures:
 * - It starts with pages of a journal whose second half repeats the first. They are one line long at first, then
 *   longer. Attention over few words soon finds the right one; with whole bills alone, it never starts to.
 * - Only the second half of a document counts in the loss (nine times in ten), because the first is full of invented
 *   names.
 * - The initial weights are five times larger than Llama's usual 0.02, which is meant for a hidden size of thousands,
 *   and the weight decay is strong.
 */

/** The model's config. Two query heads share one pair of key and value heads; a head is 64 wide, as in Llama 3.2 1B. */
export const MODEL_CONFIG = {
  hiddenSize: 128,
  intermediateSize: 384,
  numHiddenLayers: 4,
  numAttentionHeads: 2,
  numKeyValueHeads: 1,
  headDim: 64,
  maxPositionEmbeddings: MODEL_MAX_LENGTH,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  tieWordEmbeddings: true,
  initializerRange: 0.1,
};

export interface PretrainingPlan {
  /** Number of training tokens. */
  tokens: number;
  /** Approximate number of tokens in a batch, with padding. */
  batchTokens: number;
  /** Share of the tokens that belong to the journal, at the start. */
  journalShare: number;
  /** Number of the journal's pages. */
  journalPages: number;
  seed: number;
}

export const PLAN: PretrainingPlan = {
  tokens: 3_500_000,
  batchTokens: 1024,
  journalShare: 0.25,
  journalPages: 12_000,
  seed: 2,
};

const LEARNING_RATE = 3e-3;
const FINAL_FACTOR = 0.05;
const WARMUP_STEPS = 50;
/** Length of the longest journal page in tokens, at the start and at the end of the journal's part. */
const SHORTEST_PAGE = 28;
const LONGEST_PAGE = 160;
/** Share of the journal's part in which pages stay short. */
const SHORT_SHARE = 0.3;
const LONGEST_DOCUMENT = 320;

/** A document as token ids; `from` is the index of its continuation. */
interface EncodedDocument {
  ids: number[];
  from: number;
}

/**
 * Makes the batches of the whole pre-training, in order. Documents of similar length share a batch. Rows are padded on
 * the right, which causal attention ignores, so there is no mask.
 */
export function pretrainingBatches(tokenizer: Tokenizer, plan: PretrainingPlan): Batch[] {
  const random = new SeededRandom(plan.seed + 1);
  const documents = new PretrainingDocuments(plan.seed + 2);
  const encode = ({context, continuation}: PretrainingDocument): EncodedDocument => {
    const [before, after] = [context, continuation].map((text) =>
      tokenizer.encode(text, {addSpecialTokens: false}),
    );
    return {ids: [...before, ...after], from: before.length};
  };
  const pages = Array.from({length: plan.journalPages}, (_, index) =>
    encode(documents.journal(index % 2 === 0 ? 2 : 6)),
  );
  const document = (): EncodedDocument => {
    for (;;) {
      const encoded = encode(documents.next());
      if (encoded.ids.length <= LONGEST_DOCUMENT) return encoded;
    }
  };

  const batches: Batch[] = [];
  for (let done = 0; done < plan.tokens; ) {
    const share = done / plan.tokens / plan.journalShare; // above 1: the journal's part is over
    const growth = Math.max(0, (share - SHORT_SHARE) / (1 - SHORT_SHARE));
    const longestPage = SHORTEST_PAGE + (LONGEST_PAGE - SHORTEST_PAGE) * growth;
    const readable = pages.filter(({ids}) => ids.length <= longestPage);
    const window: EncodedDocument[] = [];
    for (let size = 0; size < 8 * plan.batchTokens; ) {
      const isJournal = share < 1 || random.chance(0.05);
      const drawn = isJournal ? random.pick(readable) : document();
      window.push(drawn);
      size += drawn.ids.length;
    }
    window.sort((a, b) => a.ids.length - b.ids.length);
    const groups: EncodedDocument[][] = [[]];
    for (const drawn of window) {
      const group = groups[groups.length - 1];
      group.push(drawn);
      if (group.length * drawn.ids.length >= plan.batchTokens) groups.push([]);
    }
    for (const group of random.shuffle(groups.filter((group) => group.length > 0))) {
      batches.push(toBatch(group, share < 1 ? 0 : 0.1, tokenizer.padTokenId as number, random));
      for (const {ids} of group) done += ids.length;
    }
  }
  return batches;
}

/**
 * Makes a batch of documents.
 *
 * @param wholeShare share of documents in which all tokens count, rather than only the continuation
 */
function toBatch(
  documents: EncodedDocument[],
  wholeShare: number,
  padTokenId: number,
  random: SeededRandom,
): Batch {
  const length = Math.max(...documents.map(({ids}) => ids.length));
  const pad = (values: number[], value: number) => [
    ...values,
    ...new Array<number>(length - values.length).fill(value),
  ];
  return {
    inputIds: documents.map(({ids}) => pad(ids, padTokenId)),
    labels: documents.map(({ids, from}) => {
      const start = random.chance(wholeShare) ? 0 : from;
      return pad(
        ids.map((id, index) => (index < start ? -100 : id)),
        -100,
      );
    }),
  };
}

/** Makes the validation data: continuations of pages and of documents that are in no batch. */
function validationSets(tokenizer: Tokenizer): Record<string, Example[]> {
  const documents = new PretrainingDocuments(999);
  const example = ({context, continuation}: PretrainingDocument): Example => {
    const [before, after] = [context, continuation].map((text) =>
      tokenizer.encode(text, {addSpecialTokens: false}),
    );
    return {inputIds: [...before, ...after], labels: [...before.map(() => -100), ...after]};
  };
  return {
    'journal pages': Array.from({length: 24}, () => example(documents.journal(4))),
    documents: Array.from({length: 24}, () => example(documents.next())),
  };
}

async function main(): Promise<void> {
  const {values} = parseArgs({
    options: {
      backend: {type: 'string', default: 'wasm'},
      tokens: {type: 'string', default: String(PLAN.tokens)},
      out: {type: 'string', default: join(import.meta.dirname, 'model')},
    },
  });
  console.log(String(await useBackend(values.backend as 'wasm')));
  const folder = join(import.meta.dirname, 'model');
  const tokenizer = await Tokenizer.fromFolder(folder);
  const {bosTokenId, eosTokenId, padTokenId} = tokenizer;
  const model = Llama.fromConfig(
    {...MODEL_CONFIG, vocabSize: tokenizer.vocabSize, bosTokenId, eosTokenId, padTokenId},
    {seed: PLAN.seed},
  );
  model.tokenizer = tokenizer;
  model.generationConfig = {bosTokenId, eosTokenId, padTokenId};
  model.gradientCheckpointing = false; // saves time; memory does not matter here
  model.summary();

  const plan = {...PLAN, tokens: Number(values.tokens)};
  const batches = pretrainingBatches(tokenizer, plan);
  const warmth = learningRateSchedule('cosine', {totalSteps: batches.length});
  model.compile({
    optimizer: new AdamW({learningRate: LEARNING_RATE, beta2: 0.99, weightDecay: 0.3}),
    schedule: (step) =>
      Math.min(1, (step + 1) / WARMUP_STEPS) * (FINAL_FACTOR + (1 - FINAL_FACTOR) * warmth(step)),
    maxGradNorm: 1,
  });
  const sets = validationSets(tokenizer);
  const every = Math.ceil(batches.length / 12);
  const history = await model.fitDataset(batches, {
    shuffle: false,
    callbacks: async ({step}) => {
      if (step % every !== 0 && step !== batches.length) return;
      const losses: string[] = [];
      for (const [name, examples] of Object.entries(sets)) {
        losses.push(`${name} ${(await model.evaluateDataset(examples, {batchSize: 8})).loss.toFixed(3)}`);
      }
      console.log(`step ${step} of ${batches.length}: loss of unseen ${losses.join(', ')}`);
    },
  });
  rmSync(join(values.out, 'model.safetensors'), {force: true});
  await model.save(values.out, {dtype: 'bfloat16'});
  const {seconds} = history.steps[history.steps.length - 1];
  console.log(`${plan.tokens} tokens in ${batches.length} steps, ${Math.round(seconds)} s → ${values.out}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) void main();

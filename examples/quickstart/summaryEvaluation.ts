import type {Example, Llama, Tokenizer} from '../../src/index.ts';
import {corpusBleu, meanRouge} from '../../src/training/metrics/index.ts';
import type {AlpacaRecord} from './billGenerator.ts';

/** A model's results on the held-out bills. */
export interface SummaryEvaluation {
  /** Mean cross-entropy of the reference summaries. */
  loss: number;
  /** F-measure × 100 of Google's rouge_score with its stemmer. */
  rouge1: number;
  rouge2: number;
  rougeL: number;
  /** BLEU of sacreBLEU. */
  bleu4: number;
  /** Share of summaries that are identical to the reference. */
  exact: number;
  /** Generated summaries, in the order of the records. */
  summaries: string[];
}

/** Encodes the conversation up to the answer: the bill, and the header of the assistant's turn. */
export function promptOf(tokenizer: Tokenizer, {instruction, input}: AlpacaRecord): number[] {
  return tokenizer.encodeChat([{role: 'user', content: `${instruction}\n${input}`}], {
    addGenerationPrompt: true,
  });
}

/** Makes a training example as LLaMA-Factory's `llama3` template does: only the answer and its `<|eot_id|>` count. */
export function exampleOf(tokenizer: Tokenizer, record: AlpacaRecord): Example {
  const prompt = promptOf(tokenizer, record);
  const answer = tokenizer.encode(`${record.output}<|eot_id|>`, {addSpecialTokens: false});
  return {inputIds: [...prompt, ...answer], labels: [...prompt.map(() => -100), ...answer]};
}

/** Measures the loss on the references, then generates summaries by greedy decoding and scores them. */
export async function evaluateSummaries(
  model: Llama,
  records: readonly AlpacaRecord[],
): Promise<SummaryEvaluation> {
  const tokenizer = model.tokenizer as Tokenizer;
  const {loss} = await model.evaluateDataset(
    records.map((record) => exampleOf(tokenizer, record)),
    {batchSize: 16},
  );
  const summaries = await summarize(model, records);
  const references = records.map(({output}) => output);
  const {rouge1, rouge2, rougeL} = meanRouge(summaries, references);
  const exact = summaries.filter((summary, index) => summary === references[index]).length / records.length;
  return {loss, rouge1, rouge2, rougeL, bleu4: corpusBleu(summaries, references).score, exact, summaries};
}

/** Summarises the bill of each record. */
export function summarize(model: Llama, records: readonly AlpacaRecord[]): Promise<string[]> {
  const prompts = records.map((record) => promptOf(model.tokenizer as Tokenizer, record));
  return model.generate(prompts, {maxNewTokens: 80, doSample: false});
}

/**
 * Loads a GGUF file here and in llama.cpp. Compares token ids of texts, and greedy answers to the first texts.
 *
 *   npx tsx bench/llamaCpp.ts model.gguf --data dev.json [--texts 100] [--answers 4] [--tokens 32] [--backend wasm]
 *
 * The data is a JSON list of records with `instruction` and `input`. An answer continues the model's chat template after
 * the instruction and the beginning of the input. The status is 1 when a text or an answer differs.
 */
import {readFileSync} from 'node:fs';
import {parseArgs} from 'node:util';
import {generateIds} from '../models/generation/generate.ts';
import {AutoModelForCausalLM, type BackendName, useBackend} from '../src/index.ts';
import {LlamaCppModel} from '../test/llamaCpp/llamaCpp.ts';

/** Characters of an input that a prompt has, so that it fits into llama.cpp's context here. */
const INPUT_LENGTH = 500;

async function main(): Promise<void> {
  const {values, positionals} = parseArgs({
    allowPositionals: true,
    options: {
      data: {type: 'string'},
      texts: {type: 'string', default: '100'},
      answers: {type: 'string', default: '4'},
      tokens: {type: 'string', default: '32'},
      backend: {type: 'string', default: 'wasm'},
    },
  });
  const records = JSON.parse(readFileSync(values.data!, 'utf8')) as {instruction: string; input: string}[];
  const texts = records.slice(0, Number(values.texts)).map(({input}) => input);
  console.log(`${await useBackend(values.backend as BackendName)}`);
  const model = await AutoModelForCausalLM.fromPretrained(positionals[0]);
  const tokenizer = model.tokenizer!;
  const peer = await LlamaCppModel.load(positionals[0]);
  const idsOf = (text: string) => [...peer.model.tokenize(text, true)];
  const sameTexts = texts.filter((text) => {
    const ids = tokenizer.encode(text, {addSpecialTokens: false});
    return ids.join() === idsOf(text).join();
  });
  const tokens = texts.reduce((sum, text) => sum + tokenizer.encode(text).length, 0);
  console.log(`${sameTexts.length} of ${texts.length} texts (${tokens} tokens) have the same ids`);

  let same = 0;
  const asked = records.slice(0, Number(values.answers));
  for (const {instruction, input} of asked) {
    const content = `${instruction}\n${input.slice(0, INPUT_LENGTH)}`;
    const prompt = tokenizer.encodeChat([{role: 'user', content}], {addGenerationPrompt: true});
    const count = Number(values.tokens);
    const ours = await generateIds(model, prompt, {maxNewTokens: count, doSample: false});
    const theirs = await peer.greedy(prompt, ours.length);
    const isSame = ours.join() === theirs.join();
    if (isSame) same++;
    console.log(`${isSame ? 'same' : 'DIFFERENT'}: ${tokenizer.decode(ours)}`);
    if (!isSame) console.log(`llama.cpp: ${tokenizer.decode(theirs)}`);
  }
  console.log(`${same} of ${asked.length} greedy answers are the same`);
  await peer.dispose();
  model.dispose();
  if (same < asked.length || sameTexts.length < texts.length) process.exitCode = 1;
}

main().then(
  () => process.exit(process.exitCode ?? 0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

import {Llama, Tokenizer} from '../../../../src/index.ts';

/** Makes a Llama of one small block with the tokenizer of the quickstart, and random weights. */
export async function quickstartLlama(
  seed = 1,
  {hiddenSize = 16, maxPositionEmbeddings = 128} = {},
): Promise<Llama> {
  const model = Llama.fromConfig(
    {
      hiddenSize,
      intermediateSize: 2 * hiddenSize,
      numHiddenLayers: 1,
      numAttentionHeads: 2,
      numKeyValueHeads: 1,
      vocabSize: 2048,
      maxPositionEmbeddings,
    },
    {seed},
  );
  model.tokenizer = await Tokenizer.fromFolder('examples/quickstart/model');
  return model;
}

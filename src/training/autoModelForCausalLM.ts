import {type LoadOptions, loadPretrained} from '../../models/loadPretrained.ts';
import {modelClassOf} from '../../models/modelRegistry.ts';
import type {FolderSource} from '../../quant/folders/openFolder.ts';
import {type TrainableCausalLM, trainable} from './trainable.ts';

/** Opens a model of any registered family, chosen by its `config.json`, like transformers' class of this name. */
export const AutoModelForCausalLM = {
  /**
   * Loads a Hugging Face folder, as `Llama.fromPretrained` does for Llama models.
   *
   * @throws TfjsLoraError `UNSUPPORTED` for a `model_type` that is not registered, naming those that are; and what the
   *   family's own `fromPretrained` throws
   */
  fromPretrained(source: FolderSource, options?: LoadOptions): Promise<TrainableCausalLM> {
    return loadPretrained((json, where) => trainable(modelClassOf(json, where)), source, options);
  },
};

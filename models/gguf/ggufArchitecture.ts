import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {GGUF_ARCHITECTURES, type GgufArchitecture} from './tensorNames.ts';

/** Families whose files have the architecture of another. */
const WRITTEN_AS: Readonly<Record<string, string>> = {mistral: 'llama'};

/**
 * Returns the architecture that llama.cpp has for a family.
 *
 * @param call the call, for the message
 * @throws TfjsLoraError `UNSUPPORTED` for a family without one
 */
export function ggufArchitectureOf(modelType: string, call: string): GgufArchitecture {
  const written = Object.hasOwn(WRITTEN_AS, modelType) ? WRITTEN_AS[modelType] : modelType;
  const found = GGUF_ARCHITECTURES.find((architecture) => architecture.modelType === written);
  if (found) return found;
  const known = [...GGUF_ARCHITECTURES.map((each) => each.modelType), ...Object.keys(WRITTEN_AS)];
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${call} model_type: expected one of ${known.join(', ')}, whose architecture llama.cpp has, got ${show(modelType)}. ` +
      'Save a Hugging Face folder with save(), and convert that with a converter that knows the family.',
  );
}

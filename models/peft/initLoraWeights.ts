import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {type InitializedAs, initializationNamed} from './initialization/initializeLoRAOptions.ts';

/** Names that do not change the base. Neither do true, false and null: once trained, they make no difference. */
const KEEPS_BASE = ['gaussian', 'eva', 'orthogonal', 'mica'];

/**
 * Returns how an adapter's `init_lora_weights` changed the base weights, or undefined if it did not. PEFT 0.21,
 * `tuners/lora/layer.py`.
 *
 * @param json `adapter_config.json`
 * @param where the file, for messages
 * @throws TfjsLoraError `INVALID_CONFIG` for an unknown value
 */
export function baseChangeOf(json: Record<string, unknown>, where: string): InitializedAs | undefined {
  const init = json.init_lora_weights;
  const name = typeof init === 'string' ? init.toLowerCase() : '';
  if (init == null || typeof init === 'boolean' || KEEPS_BASE.includes(name)) return undefined;
  if (name === 'loftq') return {method: name, ...loftqSettings(json.loftq_config, where)};
  if (initializationNamed(name)) return {method: name as 'pissa'};
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `${where} init_lora_weights: expected true, false, gaussian, eva, orthogonal, mica, pissa, olora, loftq, corda or ` +
      `lora_ga, got ${show(init)}, which PEFT 0.21 does not support either.`,
  );
}

/** @returns the refusal of an adapter whose base was changed by what was measured on batches */
export function missingFirstMatrices(method: string, where: string): TfjsLoraError {
  return new TfjsLoraError(
    'UNSUPPORTED',
    `${where} init_lora_weights: expected the first matrices beside it, as saveAdapter writes them, got ${method} alone, which ` +
      'changed the base by what was measured on data: on the unchanged base the adapter would be wrong. Pass initialAdapter, the ' +
      'folder that PEFT saved before training. Or convert the adapter in PEFT: save_pretrained(folder, ' +
      'path_initial_model_for_weight_conversion=initial), or merge_and_unload() the model that was trained, and load that.',
  );
}

function loftqSettings(config: unknown, where: string): Pick<InitializedAs, 'loftqBits' | 'loftqIterations'> {
  const {loftq_bits = 4, loftq_iter = 1} = (config ?? {}) as Record<string, unknown>;
  const isKnown = loftq_bits === 4 || loftq_bits === 8;
  if (isKnown && Number.isInteger(loftq_iter) && (loftq_iter as number) > 0)
    return {loftqBits: loftq_bits, loftqIterations: loftq_iter as number};
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `${where} loftq_config: expected loftq_bits 4 or 8 and a positive loftq_iter, got ${show(config)}`,
  );
}

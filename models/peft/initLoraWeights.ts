import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {type InitializedAs, initializationNamed} from './initialization/initializeLoRA.ts';

/** Names that do not change the base. Neither do true, false and null: once trained, they make no difference. */
const KEEPS_BASE = ['gaussian', 'eva', 'orthogonal', 'mica'];

/** Values that change the base by what was measured on data, which no file has. */
const NEEDS_DATA = ['corda', 'lora_ga'];

/**
 * Returns how an adapter's `init_lora_weights` changed the base weights, or undefined if it did not. PEFT 0.21,
 * `tuners/lora/layer.py`.
 *
 * @param json `adapter_config.json`
 * @param where the file, for messages
 * @throws TfjsLoraError `UNSUPPORTED` saying how to convert the adapter; `INVALID_CONFIG` for an unknown value
 */
export function baseChangeOf(json: Record<string, unknown>, where: string): InitializedAs | undefined {
  const init = json.init_lora_weights;
  const name = typeof init === 'string' ? init.toLowerCase() : '';
  if (init == null || typeof init === 'boolean' || KEEPS_BASE.includes(name)) return undefined;
  if (name === 'loftq') return {method: name, ...loftqSettings(json.loftq_config, where)};
  if (initializationNamed(name)) return {method: name as 'pissa'};
  const got =
    `${where} init_lora_weights: expected true, false, gaussian, eva, orthogonal, mica, pissa, olora or loftq, ` +
    `got ${show(init)}`;
  if (!NEEDS_DATA.includes(name))
    throw new TfjsLoraError('INVALID_CONFIG', `${got}, which PEFT 0.21 does not support either.`);
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${got}, which also changes the base weights: on the unchanged base the adapter would be wrong. Convert it in PEFT: ` +
      'before training, set init_lora_weights = True in the config and save_pretrained(initial); afterwards ' +
      'save_pretrained(folder, path_initial_model_for_weight_conversion=initial) and load that folder. Or, in PEFT, call ' +
      'merge_and_unload() on the model that was trained, save_pretrained a folder and load it as the model.',
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

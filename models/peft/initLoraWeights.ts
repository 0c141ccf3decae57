import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';

const CONVERT =
  'Convert it in PEFT: before training, set init_lora_weights = True in the config and save_pretrained(initial); ' +
  'afterwards save_pretrained(folder, path_initial_model_for_weight_conversion=initial) and load that folder. ';

const MERGE =
  'in PEFT, call merge_and_unload() on the model that was trained, save_pretrained a folder and load it as the model.';

/**
 * Values of `init_lora_weights` that subtract the initial update from the base weight, so that the adapter belongs to
 * the changed base and not to the one in the file; each with advice. PEFT 0.21, `tuners/lora/layer.py`.
 */
const CHANGES_BASE: [pattern: RegExp, advice: string][] = [
  [/^pissa/, `${CONVERT}Or, ${MERGE}`],
  [/^olora$/, `${CONVERT}Or, ${MERGE}`],
  [/^corda/, `${CONVERT}Or, ${MERGE}`],
  [/^lora_ga$/, `${CONVERT}Or, ${MERGE}`],
  [/^loftq$/, `No conversion of the adapter exists: ${MERGE}`],
];

/** Values that do not change the base. Neither do true, false and null: once trained, they make no difference. */
const KEEPS_BASE = ['gaussian', 'eva', 'orthogonal', 'mica'];

/**
 * Checks that an adapter's `init_lora_weights` did not change the base weights.
 *
 * @param where the file, for messages
 * @throws TfjsLoraError `UNSUPPORTED` saying how to convert the adapter; `INVALID_CONFIG` for an unknown value
 */
export function assertKeepsBase(init: unknown, where: string): void {
  if (init == null || typeof init === 'boolean') return;
  const name = typeof init === 'string' ? init.toLowerCase() : undefined;
  if (name !== undefined && KEEPS_BASE.includes(name)) return;
  const advice = CHANGES_BASE.find(([pattern]) => name !== undefined && pattern.test(name))?.[1];
  const got = `${where} init_lora_weights: expected true, false, ${KEEPS_BASE.join(', ')}, got ${show(init)}`;
  if (advice === undefined) {
    throw new TfjsLoraError('INVALID_CONFIG', `${got}, which PEFT 0.21 does not support either.`);
  }
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${got}, which also changes the base weights: on the unchanged base the adapter would be wrong. ${advice}`,
  );
}

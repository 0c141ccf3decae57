import {basename} from 'node:path';
import {parse, stringify} from 'yaml';
import type {LoRAOptions} from '../../../models/peft/loraOptions.ts';
import {counted} from '../../../quant/counted.ts';

/** An adapter that was merged into a model. */
export interface MergedAdapter {
  path: string;
  options: LoRAOptions;
}

interface CardArgs {
  /** Name of the base. */
  title: string;
  /** Name of the base on the hub, if known. */
  hubName?: string;
  /** The base's own card, whose licence also applies to the merged model. */
  baseCard?: string;
  /** The `model_type` in the model's config. */
  modelType: string;
  adapters: MergedAdapter[];
  parameters: number;
  dtype: string;
  files: string[];
  bytes: number;
}

const TAG = 'tfjs-lora';
const LICENCE_KEYS = ['license', 'license_name', 'license_link', 'language'];

/** Whether a README.md was generated here and may be replaced. */
export function isOwnModelCard(text: string): boolean {
  const tags = metadataOf(text).tags;
  return Array.isArray(tags) && tags.includes(TAG);
}

/** Returns the README.md of an exported model, with the metadata that the hub reads. */
export function modelCard(card: CardArgs): string {
  const {title, hubName, baseCard, modelType, adapters, parameters, dtype, files, bytes} = card;
  const inherited = metadataOf(baseCard ?? '');
  const metadata = {
    ...(hubName !== undefined && {base_model: hubName, base_model_relation: 'finetune'}),
    library_name: 'transformers',
    pipeline_tag: 'text-generation',
    tags: [TAG, modelType, ...(adapters.length > 0 ? ['lora'] : [])],
    ...Object.fromEntries(LICENCE_KEYS.flatMap((key) => (key in inherited ? [[key, inherited[key]]] : []))),
  };
  const origin =
    adapters.length > 0
      ? `${title} with ${adapters.length === 1 ? 'a LoRA adapter' : `${adapters.length} LoRA adapters`} merged into ` +
        'its weights.'
      : `${title}, saved again without changes.`;
  const rows = adapters.map(
    ({path, options}, index) =>
      `| ${index + 1} | ${cell(basename(path))} | ${options.rank} | ${options.alpha} | ${kindOf(options)} | ` +
      `${cell(targetsOf(options))} |`,
  );
  const table = ['| | adapter | rank | alpha | kind | layers |', '|---|---|---|---|---|---|', ...rows];
  const size = `${parameters.toLocaleString('en-US')} parameters in ${dtype}, ${Number((bytes / 1e9).toPrecision(3))} GB in ${counted(
    files.length,
    'file',
  )}.`;
  return [
    `---\n${stringify(metadata)}---`,
    `# ${title}${adapters.length > 0 ? ', fine-tuned' : ''}`,
    origin,
    ...(adapters.length > 0 ? [`Merged in this order:\n\n${table.join('\n')}`] : []),
    size,
    '```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n' +
      'model = AutoModelForCausalLM.from_pretrained(folder)\n' +
      'tokenizer = AutoTokenizer.from_pretrained(folder)\n```',
    'Made with tfjs-lora.\n',
  ].join('\n\n');
}

/** Reads the YAML between the first two `---` lines. Returns an empty object if there is none or it does not parse. */
function metadataOf(card: string): Record<string, unknown> {
  const [, yaml] = /^---\r?\n([\s\S]*?)\r?\n---\r?(?:\n|$)/.exec(card) ?? [];
  try {
    return (parse(yaml ?? '') as Record<string, unknown> | null) ?? {};
  } catch {
    return {};
  }
}

/** Whether a name has the form `owner/name`, as on the hub. A relative path may look the same. */
export function isHubName(name: string | undefined): name is string {
  return name !== undefined && /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/.test(name);
}

function kindOf({useDoRA, useRsLoRA}: LoRAOptions): string {
  return [useDoRA ? 'DoRA' : 'LoRA', ...(useRsLoRA ? ['rank-stabilised'] : [])].join(', ');
}

function targetsOf({targetModules, modulesToSave = []}: LoRAOptions): string {
  const targets = Array.isArray(targetModules) ? targetModules : [String(targetModules)];
  return [...targets, ...modulesToSave.map((name) => `${name} (whole)`)].join(', ');
}

const cell = (text: string) => text.replaceAll('|', '\\|');

import {basename, resolve} from 'node:path';
import {z} from 'zod';
import type {CausalLM} from '../../../models/causalLM.ts';
import {BASE} from '../../../models/peft/rowAdapters.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import {ApiError} from './apiError.ts';

/** A request to load or replace an adapter from a path, or to unload it if there is no path. */
export interface AdapterChange {
  lora_name: string;
  lora_path?: string;
  load_inplace?: boolean;
}
export const loadBody = z.object({
  lora_name: z.string().min(1),
  lora_path: z.string().min(1),
  load_inplace: z.boolean().optional(),
});
export const unloadBody = z.object({lora_name: z.string().min(1)});

/** The base and the adapters of a running server, by the names that requests use. */
export class ServedModels {
  /** The base, then each adapter; the newest is last. */
  readonly names: string[];
  /** Whether the base contains its adapters, which then answer for it. */
  private readonly isMerged: boolean;
  private readonly started = Math.floor(Date.now() / 1000);

  constructor(
    private readonly model: CausalLM,
    baseName = basename(resolve(model.nameOrPath || 'model')),
  ) {
    this.isMerged = [...model.layersWithAdapters().values()].some((layer) => layer.isMerged);
    this.names = [baseName, ...(this.isMerged ? [] : model.adapterNames)];
  }

  /**
   * Returns the name of the model that answers: by default the newest adapter.
   *
   * @throws ApiError 404 for an unknown name
   */
  resolve(name = this.names[this.names.length - 1]): string {
    if (this.names.includes(name)) return name;
    throw new ApiError(
      404,
      `model ${show(name)}: expected one of ${this.names.join(', ')}, got an unknown one.`,
      'model',
      'model_not_found',
    );
  }

  /** Returns the adapter that answers for a name; undefined if it is merged. */
  adapterOf(name: string): string | undefined {
    if (this.isMerged) return undefined;
    return name === this.names[0] ? BASE : name;
  }

  /** Describes a model in OpenAI's API. */
  describe(id: string): Record<string, unknown> {
    const [base] = this.names;
    return {
      id,
      object: 'model',
      created: this.started,
      owned_by: 'tfjs-lora',
      max_model_len: this.model.config.maxPositionEmbeddings,
      ...(id !== base && {parent: base}),
    };
  }

  /**
   * Loads, replaces or unloads an adapter while no answer is running. Returns what it did.
   *
   * @throws ApiError
   */
  async change({lora_name: name, lora_path: path, load_inplace}: AdapterChange): Promise<string> {
    const {model, names} = this;
    const isLoaded = names.indexOf(name) > 0;
    const refusal = (status: number, expected: string) =>
      new ApiError(status, `lora_name ${show(name)}: expected ${expected}.`, 'lora_name');
    try {
      if (path === undefined) {
        if (!isLoaded) throw refusal(404, 'a loaded adapter');
        model.deleteAdapter(name);
        names.splice(names.indexOf(name), 1);
        return `unloaded ${name}`;
      }
      if (isLoaded && load_inplace) {
        await model.hotswapAdapter(path, {adapterName: name});
        return `replaced ${name}`;
      }
      if (names.includes(name)) throw refusal(400, 'a new name, or load_inplace');
      await model.loadAdapter(path, {adapterName: name});
      names.push(name);
      return `loaded ${name}`;
    } catch (error) {
      throw error instanceof TfjsLoraError ? new ApiError(400, error.message, null, 'invalid_value') : error;
    }
  }
}

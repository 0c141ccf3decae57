import {homedir} from 'node:os';
import {join} from 'node:path';
import type {OptionNames} from '../../../quant/knownOptions.ts';

/** Options for reaching the Hugging Face hub. */
export interface HubOptions {
  /** Address of the hub; credentials in it are sent as a header and never shown. Default `https://huggingface.co`. */
  endpoint?: string;
  /** Access token, for gated and private repositories. */
  token?: string;
  /** Folder of the hub's cache, shared with the Python libraries. Default `~/.cache/huggingface/hub`. */
  cacheDir?: string;
  /** Whether to use only the cache. Default false. */
  offline?: boolean;
  /** Stops the download; a later call resumes it. */
  signal?: AbortSignal;
  /** Milliseconds before a failed request is tried again, doubled before each further attempt. Default 500. */
  retryDelay?: number;
  /** Milliseconds without data after which a connection is given up and tried again. Default 30 000. */
  idleTimeout?: number;
  /** Called as files arrive; `total` is the size in bytes of all files to fetch. */
  onProgress?: (progress: HubProgress) => void;
}

export const HUB_OPTIONS = {
  endpoint: true,
  token: true,
  cacheDir: true,
  offline: true,
  signal: true,
  retryDelay: true,
  idleTimeout: true,
  onProgress: true,
} satisfies OptionNames<HubOptions>;

export interface HubProgress {
  repository: string;
  file: string;
  /** Bytes so far, of all files together. */
  done: number;
  total: number;
}

/** Hub settings from the environment, in the variables of `huggingface_hub`. */
export interface HuggingFaceEnvironment {
  hub: HubOptions;
  /** Folder for tokenized data sets. */
  tokenizedCache: string;
}

const isOn = (value = '') => ['1', 'on', 'yes', 'true'].includes(value.toLowerCase());

/** Reads the variables `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE` and similar ones. */
export function huggingFaceEnvironment(
  variables: Record<string, string | undefined>,
): HuggingFaceEnvironment {
  const home =
    variables.HF_HOME || join(variables.XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface');
  return {
    hub: {
      endpoint: variables.HF_ENDPOINT || undefined,
      token: variables.HF_TOKEN || variables.HUGGING_FACE_HUB_TOKEN || undefined,
      cacheDir: variables.HF_HUB_CACHE || variables.HUGGINGFACE_HUB_CACHE || join(home, 'hub'),
      offline: isOn(variables.HF_HUB_OFFLINE),
    },
    tokenizedCache: join(home, 'tfjs-lora'),
  };
}

export const DEFAULT_ENDPOINT = 'https://huggingface.co';

export function cacheFolder({cacheDir}: HubOptions): string {
  return cacheDir ?? join(homedir(), '.cache', 'huggingface', 'hub');
}

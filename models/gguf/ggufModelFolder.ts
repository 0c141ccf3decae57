import {TfjsLoraError} from '../../quant/errors.ts';
import type {Folder} from '../../quant/folders/folder.ts';
import type {TensorFiles} from '../../quant/folders/tensorFiles.ts';
import {GgufFiles} from '../../quant/gguf/ggufFiles.ts';
import type {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {ggufConfig} from './ggufConfig.ts';
import {GgufTensors} from './ggufTensors.ts';
import {ggufTokenizer} from './ggufTokenizer.ts';
import {MetadataReader} from './metadataReader.ts';
import {GGUF_ARCHITECTURES, type GgufArchitecture} from './tensorNames.ts';

/**
 * A GGUF model as a Hugging Face folder: its `config.json`, `tokenizer.json` and `tokenizer_config.json` are made from
 * the file's metadata, and {@link openTensors} has its weights.
 */
export class GgufModelFolder implements Folder {
  private constructor(
    private readonly source: Folder,
    private readonly file: string,
    private readonly architecture: GgufArchitecture,
    private readonly config: Record<string, unknown>,
    private readonly texts: ReadonlyMap<string, string>,
  ) {}

  /**
   * Reads the header of a GGUF file, and makes the texts.
   *
   * @param name the file's name in its folder
   * @throws TfjsLoraError as `GgufFiles.open`; `UNSUPPORTED` naming an architecture, tokenizer or setting that is not
   *   read; `INVALID_CONFIG` naming a missing or impossible key
   */
  static async open(source: Folder, name: string): Promise<GgufModelFolder> {
    const files = await GgufFiles.open(source, name);
    try {
      const metadata = new MetadataReader(files.metadata, files.path);
      const architecture = architectureOf(metadata);
      const config = await ggufConfig(architecture, metadata, files);
      const tokenizer = ggufTokenizer(metadata);
      const texts = new Map([['config.json', JSON.stringify(config)]]);
      if (tokenizer) {
        texts.set('tokenizer.json', JSON.stringify(tokenizer.tokenizer));
        texts.set('tokenizer_config.json', JSON.stringify(tokenizer.config));
      }
      return new GgufModelFolder(source, name, architecture, config, texts);
    } finally {
      files.close();
    }
  }

  get path(): string {
    return this.source.pathOf(this.file);
  }

  pathOf(name: string): string {
    return name === '' ? this.path : `${this.path} (${name})`;
  }

  async exists(): Promise<boolean> {
    return true;
  }

  async has(name: string): Promise<boolean> {
    return this.texts.has(name);
  }

  async names(): Promise<string[]> {
    return [...this.texts.keys()];
  }

  async read(name: string): Promise<Uint8Array | undefined> {
    const text = this.texts.get(name);
    return text === undefined ? undefined : new TextEncoder().encode(text);
  }

  async openSafetensors(name: string): Promise<SafetensorsFile> {
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `safetensors file [${name}]: expected one in a folder, got the GGUF file ${this.path}`,
    );
  }

  /** Opens the weights. @throws TfjsLoraError as `GgufFiles.open`; `UNEXPECTED_TENSOR`; `UNSUPPORTED` naming a type */
  async openTensors(): Promise<TensorFiles> {
    const files = await GgufFiles.open(this.source, this.file);
    try {
      return new GgufTensors(files, this.architecture, {
        queries: this.config.num_attention_heads as number,
        keys: this.config.num_key_value_heads as number,
        headDim: this.config.head_dim as number,
      });
    } catch (error) {
      files.close();
      throw error;
    }
  }
}

function architectureOf(metadata: MetadataReader): GgufArchitecture {
  const key = 'general.architecture';
  const wanted = metadata.required(key, metadata.text(key));
  const found = GGUF_ARCHITECTURES.find(({name}) => name === wanted);
  if (found) return found;
  throw metadata.unsupported(key, `one of ${GGUF_ARCHITECTURES.map(({name}) => name).join(', ')}`, wanted);
}

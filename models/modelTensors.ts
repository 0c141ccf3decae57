import type {Folder} from '../quant/folders/folder.ts';
import {SafetensorsFolder} from '../quant/folders/safetensorsFolder.ts';
import type {TensorFiles} from '../quant/folders/tensorFiles.ts';
import type {TensorInfo} from '../quant/safetensors/safetensorsHeader.ts';
import {toFloat32} from '../quant/safetensors/toFloat32.ts';
import {GgufModelFolder} from './gguf/ggufModelFolder.ts';

/** Parts of a decoder without its head, in files whose names omit the prefix `model.`. */
const DECODER_PARTS = new Set(['embed_tokens', 'layers', 'norm', 'rotary_emb']);
const EMBEDDING = 'model.embed_tokens.weight';
const HEAD = 'lm_head.weight';

/**
 * The tensors of a model's files under the names of a causal language model's weights. As in transformers, the files
 * may use other names: without the decoder's prefix `model.`, and the one matrix of a tied head under the embedding's
 * name or under the head's.
 */
export class ModelTensors {
  /** Names in the files by names in the model. */
  private readonly stored = new Map<string, string>();

  /**
   * @param isTied whether the config says that head and embedding share a matrix
   * @param quantizationConfig the config's `quantization_config`, which some formats need
   */
  private constructor(
    private readonly files: TensorFiles,
    isTied: boolean,
    readonly quantizationConfig: Readonly<Record<string, unknown>> | undefined,
  ) {
    const names = files.names();
    const isHeadOnly = isTied && !names.some((name) => withPrefix(name) === EMBEDDING);
    for (const name of names) {
      const whole = isHeadOnly && name === HEAD ? EMBEDDING : withPrefix(name);
      this.stored.set(files.has(whole) ? name : whole, name);
    }
  }

  /** @throws TfjsLoraError as `SafetensorsFolder.fromFolder`, or `GgufModelFolder.openTensors` for a GGUF file */
  static async fromFolder(
    folder: Folder,
    isTied: boolean,
    quantizationConfig?: Readonly<Record<string, unknown>>,
  ): Promise<ModelTensors> {
    const files =
      folder instanceof GgufModelFolder ? folder.openTensors() : SafetensorsFolder.fromFolder(folder);
    return new ModelTensors(await files, isTied, quantizationConfig);
  }

  get folder(): string {
    return this.files.folder;
  }

  /** Returns the names of all tensors, in the order of the files' bytes. */
  names(): string[] {
    return [...this.stored.keys()];
  }

  has(name: string): boolean {
    return this.stored.has(name);
  }

  info(name: string): TensorInfo {
    return this.files.info(this.nameInFile(name));
  }

  fileOf(name: string): {readonly path: string} {
    return this.files.fileOf(this.nameInFile(name));
  }

  load(name: string): Promise<Uint8Array> {
    return this.files.load(this.nameInFile(name));
  }

  read(name: string): Uint8Array {
    return this.files.read(this.nameInFile(name));
  }

  close(): void {
    this.files.close();
  }

  /** Whether the files store a head that differs from the embedding, so that the two cannot be tied. */
  async hasOwnHead(): Promise<boolean> {
    if (!this.has(HEAD) || !this.has(EMBEDDING)) return false;
    const [head, embedding] = [this.info(HEAD), this.info(EMBEDDING)];
    if (head.shape.join() !== embedding.shape.join()) return true;
    const [a, b] = [await this.load(HEAD), await this.load(EMBEDDING)];
    if (head.dtype === embedding.dtype) return !isEqual(a, b);
    return !isEqual(toFloat32(a, head.dtype, HEAD), toFloat32(b, embedding.dtype, EMBEDDING));
  }

  private nameInFile(name: string): string {
    return this.stored.get(name) ?? name;
  }
}

const withPrefix = (name: string): string => (DECODER_PARTS.has(name.split('.')[0]) ? `model.${name}` : name);

function isEqual(a: Uint8Array | Float32Array, b: Uint8Array | Float32Array): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

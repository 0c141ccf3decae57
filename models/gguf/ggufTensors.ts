import {TfjsLoraError} from '../../quant/errors.ts';
import type {TensorFiles} from '../../quant/folders/tensorFiles.ts';
import {ggmlType} from '../../quant/gguf/ggmlTypes.ts';
import type {GgufFiles} from '../../quant/gguf/ggufFiles.ts';
import type {GgufTensorInfo} from '../../quant/gguf/ggufHeader.ts';
import type {GgufReader} from '../../quant/gguf/ggufReader.ts';
import type {SafetensorsDtype} from '../../quant/safetensors/safetensorsDtype.ts';
import type {TensorInfo} from '../../quant/safetensors/safetensorsHeader.ts';
import {show} from '../../quant/show.ts';
import {permutedRows} from './permutedRows.ts';
import {type GgufArchitecture, modelTensorName, ROPE_TENSORS} from './tensorNames.ts';

/** Numbers of heads, for the matrices whose rows have another order in the file. */
export interface HeadCounts {
  queries: number;
  keys: number;
  headDim: number;
}

/**
 * The tensors of a GGUF model under the model's names and in its order. They are read dequantized, as float32; if all
 * matrices are in one 16-bit type, they keep it.
 */
export class GgufTensors implements TensorFiles {
  private readonly stored = new Map<string, string>();
  private readonly matrixDtype: SafetensorsDtype;

  /** @throws TfjsLoraError `UNEXPECTED_TENSOR` naming one without a place; `UNSUPPORTED` for a type that is not decoded */
  constructor(
    private readonly files: GgufFiles,
    private readonly architecture: GgufArchitecture,
    private readonly heads: HeadCounts,
  ) {
    const types = new Set<string>();
    for (const [name, {type, shape}] of files.tensors) {
      if (ROPE_TENSORS.includes(name)) continue;
      const own = modelTensorName(architecture, name);
      const where = `tensor ${show(name)} [${files.fileOf(name).path}]`;
      if (own === undefined) {
        throw new TfjsLoraError(
          'UNEXPECTED_TENSOR',
          `${where}: expected only tensors of the architecture ${architecture.name}, got one without a place in it`,
        );
      }
      ggmlType(type.id, where);
      if (shape.length === 2) types.add(type.name);
      this.stored.set(own, name);
    }
    const [type] = types;
    this.matrixDtype = types.size === 1 && (type === 'F16' || type === 'BF16') ? type : 'F32';
  }

  get folder(): string {
    return this.files.path;
  }

  names(): string[] {
    return [...this.stored.keys()];
  }

  has(name: string): boolean {
    return this.stored.has(name);
  }

  info(name: string): TensorInfo {
    const {shape, begin, end} = this.infoInFile(name);
    return {dtype: this.dtypeOf(shape), shape, begin, end};
  }

  fileOf(name: string): GgufReader {
    return this.files.fileOf(this.nameInFile(name));
  }

  async load(name: string): Promise<Uint8Array> {
    const inFile = this.nameInFile(name);
    const {shape} = this.infoInFile(name);
    if (this.dtypeOf(shape) !== 'F32') {
      const bytes = await this.files.load(inFile);
      return bytesOf(this.ordered(name, new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)));
    }
    const values = this.ordered(name, await this.files.loadFloat32(inFile));
    const {normOffset = 0} = this.architecture;
    if (normOffset !== 0 && name.endsWith('norm.weight'))
      for (let i = 0; i < values.length; i++) values[i] -= normOffset;
    return bytesOf(values);
  }

  read(name: string): never {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `tensor ${show(name)} [${this.folder}]: expected to be read asynchronously, as tensors of GGUF files are`,
    );
  }

  close(): void {
    this.files.close();
  }

  private nameInFile(name: string): string {
    return this.stored.get(name) ?? name;
  }

  private infoInFile(name: string): GgufTensorInfo {
    const inFile = this.nameInFile(name);
    return this.files.fileOf(inFile).info(inFile);
  }

  private dtypeOf(shape: readonly number[]): SafetensorsDtype {
    return shape.length === 2 ? this.matrixDtype : 'F32';
  }

  /** Puts the rows of q and k into the model's order. */
  private ordered<Values extends Uint16Array | Float32Array>(name: string, values: Values): Values {
    if (!this.architecture.isPermuted) return values;
    const {queries, keys, headDim} = this.heads;
    const projection = /\.self_attn\.([qk])_proj\./.exec(name)?.[1];
    if (projection === undefined) return values;
    const count = projection === 'q' ? queries : keys;
    if (values.length % (count * headDim) !== 0) return values; // the shape is refused later, by name
    return permutedRows(values, count, headDim, 'halves');
  }
}

const bytesOf = ({buffer, byteOffset, byteLength}: ArrayBufferView): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

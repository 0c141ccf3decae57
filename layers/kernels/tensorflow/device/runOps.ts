import type * as tf from '@tensorflow/tfjs';
import {keptFor} from '../../keptFor.ts';
import {keptView} from './keptViews.ts';
import {
  DataType,
  type Handle,
  type OpAttribute,
  settingsOf,
  type TensorFlowBackend,
} from './tensorflowBackend.ts';

const TFJS_DTYPES = new Map<number, tf.DataType>([
  [DataType.float32, 'float32'],
  [DataType.int32, 'int32'],
  [DataType.bool, 'bool'],
]);

/** Whether {@link runOps} can return a tensor of this type. */
export const isPlain = ({dtype}: tf.TensorInfo): boolean => [...TFJS_DTYPES.values()].includes(dtype);

/** The handles of tensors, by name or index. */
export type Handles<Inputs> = {[Name in keyof Inputs]: Handle};

/**
 * Runs TensorFlow's own ops inside a kernel, on handles, because the stock backend has no 8- and 16-bit types and leaks
 * tensors of types that it cannot name. The handles that `body` returns become tensors; all others it made are freed,
 * even when it throws.
 *
 * @param inputs the kernel's inputs, by name; `body` borrows their handles
 */
export function runOps<Inputs extends object>(
  backend: TensorFlowBackend,
  inputs: Inputs,
  body: (ops: Ops, handles: Handles<Inputs>) => Handle[],
): tf.TensorInfo[] {
  const ops = new Ops(backend);
  const infos = Object.entries(inputs) as [string, tf.TensorInfo][];
  const named = infos.map(([name, info]) => [name, ops.borrow(info)]);
  const handles = Array.isArray(inputs) ? named.map(([, handle]) => handle) : Object.fromEntries(named);
  const outputs = ops.keepOnly(() => body(ops, handles as Handles<Inputs>));
  return outputs.map(({id, shape, dtype}) => {
    const dataId = {};
    backend.tensorMap.set(dataId, {shape, dtype, id, values: null, refCount: 1});
    return {dataId, shape, dtype: TFJS_DTYPES.get(dtype) as tf.DataType};
  });
}

/** TensorFlow's ops by their names in lower camel case. Their output handles live until the surrounding scope ends. */
export class Ops {
  private owned: Handle[] = [];

  constructor(readonly backend: TensorFlowBackend) {}

  /** Whether the CPU ops of `native/` may run. */
  get areFused(): boolean {
    return settingsOf(this.backend).hasFusedOps;
  }

  /** Whether the ops that CPUs and cards both have may run: norms and the optimizer's. */
  get areFusedEverywhere(): boolean {
    return this.areFused || settingsOf(this.backend).hasCardOps;
  }

  get isOnCard(): boolean {
    return this.backend.isUsingGpuDevice;
  }

  /** Returns the handle of a tensor that the engine owns and frees. */
  borrow(info: tf.TensorInfo): Handle {
    const [id] = this.backend.getInputTensorIds([info]);
    return {id, shape: info.shape, dtype: this.backend.tensorMap.get(info.dataId).dtype};
  }

  /** Runs `body` and frees the handles made in it except the returned one, which belongs to the surrounding scope. */
  scope(body: () => Handle): Handle {
    return this.keepOnly(() => [body()])[0];
  }

  /** {@link scope} for several handles. */
  keepOnly(body: () => Handle[]): Handle[] {
    const outer = this.owned;
    this.owned = [];
    let kept: Handle[] = [];
    try {
      kept = body();
      return kept;
    } finally {
      for (const handle of this.owned) {
        if (kept.includes(handle)) outer.push(handle);
        else this.backend.binding.deleteTensor(handle.id);
      }
      this.owned = outer;
    }
  }

  /** Frees a handle of the current scope that `next` replaces. */
  replace(previous: Handle | undefined, next: Handle): Handle {
    const at = previous ? this.owned.indexOf(previous) : -1;
    if (at >= 0) this.backend.binding.deleteTensor(this.owned.splice(at, 1)[0].id);
    return next;
  }

  /** Lets a handle of the current scope outlive it; the caller must free it. */
  disown(handle: Handle): Handle {
    this.owned.splice(this.owned.lastIndexOf(handle), 1);
    return handle;
  }

  /** Runs any op; the types of inputs need not be given as attributes. */
  run(name: string, inputs: Handle[], attributes: OpAttribute[] = [], outputCount = 1): Handle[] {
    const ids = inputs.map(({id}) => id);
    const outputs = this.backend.binding.executeOp(name, attributes, ids, outputCount);
    this.owned.push(...outputs);
    return outputs;
  }

  /** {@link run} for an op with one output. */
  one(name: string, inputs: Handle[], attributes: OpAttribute[] = []): Handle {
    return this.run(name, inputs, attributes)[0];
  }

  /** {@link run} for an op of `native/`, by its name there; `list` is its last input, which is optional. */
  fused(
    name: string,
    inputs: Handle[],
    attributes: OpAttribute[],
    outputCount: number,
    list?: (Handle | undefined)[],
  ): Handle[] {
    const given = list?.filter((handle) => handle !== undefined) ?? [];
    const count = list ? [this.intAttribute('N', given.length)] : [];
    return this.run(`TfjsLora${name}`, [...inputs, ...given], [...attributes, ...count], outputCount);
  }

  /** Makes a constant. TensorFlow takes over the memory of `values`, which must not change. */
  constant(shape: number[], values: Float32Array | Int32Array | Uint8Array, dtype?: number): Handle {
    const type = dtype ?? (values instanceof Int32Array ? DataType.int32 : DataType.float32);
    const handle = {id: this.backend.binding.createTensor(shape, type, values), shape, dtype: type};
    this.owned.push(handle);
    return handle;
  }

  /** Makes a float32 tensor without elements. */
  nothing(): Handle {
    return this.kept('nothing', [0], () => new Float32Array(0));
  }

  /** Makes a float32 tensor of arbitrary values. */
  empty(shape: number[]): Handle {
    return this.one('Empty', [this.integers(shape)], [this.typeAttribute('dtype', DataType.float32)]);
  }

  /**
   * Returns a kept scalar for a value that is the same in every step; for others use a {@link latest} {@link constant}.
   */
  scalar(value: number): Handle {
    return this.kept(`float ${value}`, [], () => Float32Array.of(value));
  }

  integer(value: number): Handle {
    return this.kept(`${value}`, [], () => Int32Array.of(value));
  }

  /**
   * Returns kept integers for shapes, axes and the like; for values that differ at each call use a {@link constant}.
   */
  integers(values: number[]): Handle {
    return this.kept(`[${values}]`, [values.length], () => Int32Array.from(values));
  }

  /** Returns `[begin, begin + 1, … end − 1]` in float32, because a card can compare only float32. */
  positions(begin: number, end: number): Handle {
    const size = 2 ** Math.ceil(Math.log2(end));
    const all = this.kept(`positions ${size}`, [size], () => Float32Array.from({length: size}, (_, i) => i));
    return this.slice(all, [begin], [end - begin]);
  }

  /**
   * Makes a small constant once per backend. Making it costs half as much as the op that reads it, and bringing it to a
   * card waits for all the work that the card still has.
   */
  private kept(
    name: string,
    shape: number[],
    values: () => Float32Array | Int32Array,
    maxKept = MAX_KEPT,
  ): Handle {
    const kept = constantsOf(this.backend);
    const known = kept.get(name);
    if (known) return known;
    const handle = this.constant(shape, values());
    if (kept.size < maxKept) kept.set(name, this.disown(handle));
    return handle;
  }

  /** Keeps a larger constant permanently; its name must always mean the same values. */
  table(name: string, shape: number[], values: () => Float32Array): Handle {
    return this.kept(name, shape, values, Number.POSITIVE_INFINITY);
  }

  /**
   * Keeps the result of `make` until it is called with another key, so that the first layer of a pass makes what all
   * layers share.
   *
   * @param key names everything that the result depends on; handles by their ids, which are never reused
   */
  latest(name: string, key: string, make: () => Handle): Handle {
    const kept = latestOf(this.backend);
    const last = kept.get(name);
    if (last?.key === key) return last.handle;
    const handle = this.disown(this.scope(make));
    kept.set(name, {key, handle});
    if (last) this.backend.binding.deleteTensor(last.handle.id);
    return handle;
  }

  /** Keeps a view that `make` makes of `of` as long as `of`; views take no memory. */
  view(of: Handle, name: string, make: () => Handle): Handle {
    return keptView(this.backend, of, name, () => this.disown(this.scope(make)));
  }

  typeAttribute(name: string, value: number): OpAttribute {
    return {name, type: this.backend.binding.TF_ATTR_TYPE, value};
  }

  /** Makes an attribute with a list of numbers: `int` or `float`, as the op declares it. */
  listAttribute(name: string, kind: 'int' | 'float', value: number[]): OpAttribute {
    const {TF_ATTR_INT, TF_ATTR_FLOAT} = this.backend.binding;
    return {name, type: kind === 'int' ? TF_ATTR_INT : TF_ATTR_FLOAT, value};
  }

  boolAttribute(name: string, value: boolean): OpAttribute {
    return {name, type: this.backend.binding.TF_ATTR_BOOL, value};
  }

  floatAttribute(name: string, value: number): OpAttribute {
    return {name, type: this.backend.binding.TF_ATTR_FLOAT, value};
  }

  intAttribute(name: string, value: number): OpAttribute {
    return {name, type: this.backend.binding.TF_ATTR_INT, value};
  }

  /** Returns the flags that are on; the others are TensorFlow's default, and passing each costs a microsecond. */
  private flags(values: Record<string, boolean>): OpAttribute[] {
    return Object.keys(values)
      .filter((name) => values[name])
      .map((name) => this.boolAttribute(name, true));
  }

  add(a: Handle, b: Handle): Handle {
    return this.one('AddV2', [a, b]);
  }

  sub(a: Handle, b: Handle): Handle {
    return this.one('Sub', [a, b]);
  }

  mul(a: Handle, b: Handle): Handle {
    return this.one('Mul', [a, b]);
  }

  /** Converts to another type; between floats rounds to nearest, ties to even. */
  cast(x: Handle, dtype: number): Handle {
    return x.dtype === dtype ? x : this.one('Cast', [x], [this.typeAttribute('DstT', dtype)]);
  }

  /**
   * Reads the same bytes as another type, without a copy: a narrower type adds an axis, a wider one removes the last.
   */
  bitcast(x: Handle, dtype: number): Handle {
    return this.one('Bitcast', [x], [this.typeAttribute('type', dtype)]);
  }

  reshape(x: Handle, shape: number[]): Handle {
    return this.one('Reshape', [x, this.integers(shape)]);
  }

  /** Slices a tensor; a size of −1 reaches to the end of its axis. */
  slice(x: Handle, begin: number[], size: number[]): Handle {
    return this.one('Slice', [x, this.integers(begin), this.integers(size)]);
  }

  /** Adds zeros after the end of each axis. */
  padEnd(x: Handle, counts: number[]): Handle {
    const paddings = this.kept(`pad ${counts}`, [counts.length, 2], () =>
      Int32Array.from(counts.flatMap((count) => [0, count])),
    );
    return this.one('Pad', [x, paddings]);
  }

  /** Joins tensors of one shape along a new first axis. */
  stack(parts: Handle[]): Handle {
    const type = this.typeAttribute('T', parts[0].dtype);
    const attributes = [this.intAttribute('N', parts.length), type, this.intAttribute('axis', 0)];
    return this.one('Pack', parts, attributes);
  }

  /** Splits the result of {@link stack}. */
  unstack(x: Handle): Handle[] {
    const [count] = x.shape;
    return this.run('Unpack', [x], [this.intAttribute('num', count), this.intAttribute('axis', 0)], count);
  }

  /** Splits a tensor into equal parts along `axis`. */
  split(x: Handle, axis: number, count: number): Handle[] {
    return this.run('Split', [this.integer(axis), x], [this.intAttribute('num_split', count)], count);
  }

  concat(parts: Handle[], axis: number): Handle {
    if (parts.length === 1) return parts[0];
    return this.one(
      'ConcatV2',
      [...parts, this.integer(axis)],
      [
        this.intAttribute('N', parts.length),
        this.typeAttribute('T', parts[0].dtype),
        this.typeAttribute('Tidx', DataType.int32),
      ],
    );
  }

  /** Returns slices of `table` along `axis`. */
  gather(table: Handle, indices: Handle, axis = 0): Handle {
    return this.one('GatherV2', [table, indices, this.integer(axis)]);
  }

  /** Sums along `axis`; `keepDims` keeps the summed axis with length 1. */
  sum(x: Handle, axis: number, keepDims = false): Handle {
    return this.one('Sum', [x, this.integers([axis])], this.flags({keep_dims: keepDims}));
  }

  mean(x: Handle, axis: number, keepDims = false): Handle {
    return this.one('Mean', [x, this.integers([axis])], this.flags({keep_dims: keepDims}));
  }

  where(condition: Handle, yes: Handle, no: Handle): Handle {
    return this.one('SelectV2', [condition, yes, no]);
  }

  /** Multiplies two matrices. */
  matMul(a: Handle, b: Handle, transposeA = false, transposeB = false): Handle {
    return this.one('MatMul', [a, b], this.flags({transpose_a: transposeA, transpose_b: transposeB}));
  }

  /** Multiplies the matrices in the last two axes. */
  batchMatMul(a: Handle, b: Handle, transposeA = false, transposeB = false): Handle {
    return this.one('BatchMatMulV2', [a, b], this.flags({adj_x: transposeA, adj_y: transposeB}));
  }
}

const constantsOf = keptFor((_: TensorFlowBackend) => new Map<string, Handle>());
/** Beyond this many, the kept constants are dropped, so that ever new shapes do not fill the memory. */
const MAX_KEPT = 4096;

const latestOf = keptFor((_: TensorFlowBackend) => new Map<string, {key: string; handle: Handle}>());

import type * as tf from '@tensorflow/tfjs';
import {decoderStack, decoderStackGrad} from '../../../../layers/kernels/tensorflow/card/decoderStack.ts';
import {linearCrossEntropy} from '../../../../layers/kernels/tensorflow/card/linearCrossEntropy.ts';
import {
  DataType,
  type Handle,
  type OpAttribute,
  type TensorEntry,
} from '../../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';

interface Execution {
  name: string;
  attributes: Record<string, OpAttribute['value']>;
  /** Names of given tensors; tensors made on the way have the text of what made them. */
  inputs: string[];
  outputCount: number;
}

/** A TensorFlow that computes nothing and notes the ops it is called with. */
class StandIn {
  readonly isUsingGpuDevice = true;
  readonly asked: Execution[] = [];
  readonly alive = new Map<number, string>();
  private readonly records = new Map<object, TensorEntry>();
  private nextId = 1;

  readonly tensorMap = this.records;
  readonly binding = {
    ...{TF_ATTR_INT: 1, TF_ATTR_FLOAT: 2, TF_ATTR_BOOL: 3, TF_ATTR_TYPE: 4},
    createTensor: (shape: number[]) => this.hold(`constant [${shape}]`),
    deleteTensor: (id: number) => {
      if (!this.alive.delete(id)) throw new Error(`freed twice: ${id}`);
    },
    executeOp: (name: string, given: OpAttribute[], inputs: number[], outputCount: number): Handle[] => {
      const attributes = Object.fromEntries(given.map((each) => [each.name, each.value]));
      const names = inputs.map((id) => this.alive.get(id) ?? `freed ${id}`);
      this.asked.push({name, attributes, inputs: names, outputCount});
      const dtype = (attributes.type ?? attributes.DstT ?? DataType.float32) as number;
      return Array.from({length: outputCount}, (_, i) => {
        const id = this.hold(outputCount === 1 ? `${name}(${names})` : `${name} ${i}`);
        return {id, shape: [1], dtype};
      });
    },
  };

  getInputTensorIds = (infos: tf.TensorInfo[]) => infos.map(({dataId}) => this.tensorMap.get(dataId)?.id);

  tensor(name: string, shape: number[], dtype: 'float32' | 'int32' = 'float32'): tf.TensorInfo {
    const dataId = {};
    this.records.set(dataId, {shape, dtype: DataType[dtype], id: this.hold(name), values: null, refCount: 1});
    return {dataId, shape, dtype};
  }

  of(name: string): Execution {
    return this.asked.find((each) => each.name === name) as Execution;
  }

  /** Returns what made a tensor that is still alive. */
  nameOf = ({dataId}: tf.TensorInfo) => this.alive.get(this.records.get(dataId)?.id as number);

  private hold(name: string): number {
    this.alive.set(this.nextId, name);
    return this.nextId++;
  }
}

/** Where a packed weight ends up: moved to the card and read as words. */
const words = (name: string) => `Bitcast(Bitcast(Bitcast(${name})))`;

const PROJECTIONS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];

/** The tensors of one block: `q_proj` in nf4 with an adapter, `k_proj` in int8, the rest in bfloat16. */
function stackTensors(backend: StandIn): Record<string, tf.TensorInfo> {
  const inputs: Record<string, tf.TensorInfo> = {};
  const add = (name: string, shape: number[], dtype?: 'int32') => {
    inputs[`0.${name}`] = backend.tensor(name, shape, dtype);
  };
  for (const name of ['input_layernorm', 'post_attention_layernorm']) add(name, [64]);
  add('q_proj.codes', [8], 'int32');
  add('q_proj.absmaxCodes', [2], 'int32');
  add('q_proj.nestedAbsmax', [1]);
  add('q_proj.map', [256]);
  add('q_proj.a', [2, 64]);
  add('q_proj.b', [64, 2]);
  add('k_proj.codes', [16], 'int32');
  add('k_proj.scales', [64]);
  for (const name of PROJECTIONS.slice(2)) add(`${name}.weight`, [64, 32], 'int32');
  return inputs;
}

const stackAttributes = {
  ...{heads: 1, keyValueHeads: 1, headDim: 64, intermediateSize: 64, epsilon: 1e-5, checkpointing: true},
  blocks: [
    [
      {
        dtype: 'nf4',
        rows: 64,
        cols: 64,
        blockSize: 64,
        nestedBlockSize: 256,
        offset: 0.5,
        rank: 2,
        scaling: 4,
      },
      {dtype: 'int8', rows: 64, cols: 64, outliers: 0, outlierDtype: 'float16', rank: 0, scaling: 0},
      ...PROJECTIONS.slice(2).map(() => ({dtype: 'bfloat16', rows: 64, cols: 64, rank: 0, scaling: 0})),
    ],
  ],
};

const stackOf = (backend: StandIn) => ({attributes: stackAttributes, tensors: stackTensors(backend)});

const PLAN = [
  ...[1, 1, 64, 64, 1, 1], // heads, their size, the intermediate size, checkpointed, one block
  ...[3, 64, 64, 64, 256, 2], // nf4, rows, columns, block sizes, rank
  ...[5, 64, 64, 0, 0, 0],
  ...PROJECTIONS.slice(2).flatMap(() => [0, 64, 64, 0, 0, 0]),
];
const NUMBERS = [1e-5, 0.5, 4, ...new Array(12).fill(0)];
const TENSORS = [
  ...['input_layernorm', 'post_attention_layernorm'],
  ...[
    words('q_proj.codes'),
    words('q_proj.absmaxCodes'),
    'q_proj.nestedAbsmax',
    'q_proj.map',
    'q_proj.a',
    'q_proj.b',
  ],
  ...[words('k_proj.codes'), 'k_proj.scales'],
  ...PROJECTIONS.slice(2).map((name) => words(`${name}.weight`)),
];

const run = (kernel: tf.KernelConfig, backend: StandIn, inputs: object, attrs: object) =>
  kernel.kernelFunc({inputs, attrs, backend} as Parameters<tf.KernelFunc>[0]) as tf.TensorInfo[];

describe('DecoderStack', () => {
  test('is one op with a plan, numbers and all tensors in order', () => {
    const backend = new StandIn();
    const stack = stackOf(backend);
    const inputs = {
      ...{
        x: backend.tensor('x', [1, 3, 64]),
        cos: backend.tensor('cos', [1, 1, 3, 32]),
        sin: backend.tensor('sin', [1, 1, 3, 32]),
      },
      segments: backend.tensor('segments', [1, 3], 'int32'),
    };
    const outputs = run(decoderStack, backend, inputs, {stack, isRecorded: true});
    expect(outputs).toHaveLength(2);
    const {attributes, inputs: given, outputCount} = backend.of('TfjsLoraDecoderStack');
    expect(attributes).toEqual({plan: PLAN, numbers: NUMBERS, is_recorded: true, N: TENSORS.length});
    expect(given).toEqual(['x', 'cos', 'sin', 'Cast(segments)', ...TENSORS]);
    expect(outputCount).toBe(3);
    expect(backend.nameOf(outputs[1])).toBe('TfjsLoraDecoderStack 1');
  });

  test('keeps what backward needs on the host if it is offloaded', () => {
    const backend = new StandIn();
    const {attributes, tensors} = stackOf(backend);
    const stack = {attributes: {...attributes, checkpointing: 'offload'}, tensors};
    const tables = {cos: backend.tensor('cos', [1, 1, 3, 32]), sin: backend.tensor('sin', [1, 1, 3, 32])};
    const x = backend.tensor('x', [1, 3, 64]);
    const [, saved] = run(decoderStack, backend, {x, ...tables}, {stack, isRecorded: true});
    expect(backend.nameOf(saved)).toBe('TfjsLoraDecoderStack 2');
    const dy = backend.tensor('dy', [1, 3, 64]);
    run(decoderStackGrad, backend, {dy, saved0: saved, ...tables}, {stack, isInputTrained: true});
    const {attributes: given, inputs} = backend.of('TfjsLoraDecoderStackGrad');
    expect((given.plan as number[])[4]).toBe(2);
    expect(inputs.slice(0, 3)).toEqual(['dy', 'constant [0]', 'TfjsLoraDecoderStack 2']);
  });

  test('frees everything it makes except views of weights, which it makes once', () => {
    const backend = new StandIn();
    const stack = stackOf(backend);
    const inputs = {
      ...{
        x: backend.tensor('x', [1, 3, 64]),
        cos: backend.tensor('cos', [1, 1, 3, 32]),
        sin: backend.tensor('sin', [1, 1, 3, 32]),
      },
    };
    run(decoderStack, backend, inputs, {stack, isRecorded: false});
    expect(backend.of('TfjsLoraDecoderStack').inputs[3]).toBe('constant [0]'); // no segments
    const [alive, asked] = [backend.alive.size, backend.asked.length];
    const outputs = run(decoderStack, backend, inputs, {stack, isRecorded: false});
    expect(outputs).toHaveLength(1);
    expect(backend.asked.slice(asked).map(({name}) => name)).toEqual(['TfjsLoraDecoderStack']);
    expect(backend.alive.size).toBe(alive + 1);
  });

  test.each([true, false])('gives the gradients of the adapters, of the input: %s', (isInputTrained) => {
    const backend = new StandIn();
    const stack = stackOf(backend);
    const inputs = {
      ...{dy: backend.tensor('dy', [1, 3, 64]), saved0: backend.tensor('saved', [9])},
      ...{cos: backend.tensor('cos', [1, 1, 3, 32]), sin: backend.tensor('sin', [1, 1, 3, 32])},
    };
    const outputs = run(decoderStackGrad, backend, inputs, {stack, isInputTrained});
    expect(outputs).toHaveLength(isInputTrained ? 3 : 2);
    const {attributes, inputs: given, outputCount} = backend.of('TfjsLoraDecoderStackGrad');
    expect(attributes).toEqual({
      plan: PLAN,
      numbers: NUMBERS,
      wants_input: isInputTrained,
      N: TENSORS.length,
      M: 2,
    });
    expect(given).toEqual(['dy', 'saved', 'constant [0]', 'cos', 'sin', 'constant [0]', ...TENSORS]);
    expect(outputCount).toBe(3);
    expect(outputs.map(backend.nameOf)).toEqual(
      [0, 1, 2].slice(isInputTrained ? 0 : 1).map((i) => `TfjsLoraDecoderStackGrad ${i}`),
    );
  });
});

describe('LinearCrossEntropy', () => {
  test.each([
    [true, false],
    [false, true],
  ])('is one op; the gradient is wanted: %s, losses of each row: %s', (wantsGradient, ofEachRow) => {
    const backend = new StandIn();
    const inputs = {
      ...{hidden: backend.tensor('hidden', [3, 64]), labels: backend.tensor('labels', [3], 'int32')},
      weight: backend.tensor('weight', [128, 32], 'int32'),
    };
    const outputs = run(linearCrossEntropy, backend, inputs, {
      dtype: 'float16',
      rows: 128,
      cols: 64,
      wantsGradient,
      ofEachRow,
    });
    expect(outputs).toHaveLength(wantsGradient ? 2 : 1);
    const {attributes, inputs: given} = backend.of('TfjsLoraLinearCrossEntropy');
    expect(attributes).toEqual({
      plan: [1, 128, 64, 0, 0],
      numbers: [0],
      wants_gradient: wantsGradient,
      of_each_row: ofEachRow,
      N: 1,
    });
    expect(given).toEqual(['hidden', 'Cast(labels)', words('weight')]);
  });
});

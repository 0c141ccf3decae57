import type * as tf from '@tensorflow/tfjs';
import type {ChainedModel, ChainStarter, TokenChain} from '../../../ops/chainStarter.ts';
import type {CachedBlock} from '../../../ops/stackBlock.ts';
import {
  attributesOfProjection,
  attributesOfStack,
  type PreparedStack,
  tensorsOfProjection,
  tensorsOfStack,
} from '../../../ops/stackBlock.ts';
import {attributesOf, tensorsOf} from '../../../ops/storedMatrix.ts';
import {type Ops, runOps} from '../device/runOps.ts';
import type {TensorFlowBackend} from '../device/tensorflowBackend.ts';
import {type CardPlan, planWeight} from './cardWeights.ts';
import {planAttributes, planOfStack, planProjection, stackTables, stackTensors} from './decoderStack.ts';

/** Starts chains on a card. A chain keeps its tensors until it ends. */
export const chainStarter =
  (backend: TensorFlowBackend): ChainStarter =>
  (model, caches, options) => {
    const stack = {
      attributes: attributesOfStack(model.blocks, options),
      tensors: {...tensorsOfStack(model.blocks), ...tensorsOfEnds(model)},
    };
    const {cos, sin, segments} = options;
    const [number] = read(backend, {cos, sin, ...(segments && {segments})}, (ops, handles) => {
      const cached = (['keys', 'values'] as const).flatMap((name) =>
        caches.map((block: CachedBlock) => ops.borrow(block[name])),
      );
      const tensors = [...cached, ...stackTensors(ops, stack)];
      return ops.fused(
        'StartChain',
        stackTables(ops, handles),
        planAttributes(ops, planOf(stack, model)),
        1,
        tensors,
      );
    });
    return number > 0 ? new CardChain(backend, number, caches[0].keys.shape[0]) : undefined;
  };

class CardChain implements TokenChain {
  constructor(
    private readonly backend: TensorFlowBackend,
    private readonly number: number,
    private readonly batch: number,
  ) {}

  run(past: number, positions: number[], tokens?: number[]): void {
    const given = tokens ?? new Array<number>(this.batch).fill(0);
    const request = [this.number, past, Number(tokens !== undefined), ...positions, ...given];
    this.execute('RunChain', request);
  }

  read(): tf.TypedArray {
    return read(this.backend, {}, (ops) => ops.fused('ReadChain', [integers(ops, [this.number])], [], 1));
  }

  dispose(): void {
    this.execute('EndChain', [this.number]);
  }

  /** Runs an op without outputs. */
  private execute(name: string, request: number[]): void {
    runOps(this.backend, {}, (ops) => ops.fused(name, [integers(ops, request)], [], 0));
  }
}

/** Returns an op's output on the host. */
function read<Inputs extends object>(
  backend: TensorFlowBackend,
  inputs: Inputs,
  body: Parameters<typeof runOps<Inputs>>[2],
): tf.TypedArray {
  const [{dataId}] = runOps(backend, inputs, body);
  const values = backend.readSync(dataId) as tf.TypedArray;
  backend.disposeData(dataId);
  return values;
}

const integers = (ops: Ops, values: number[]) => ops.constant([values.length], Int32Array.from(values));

/** Returns the tensors before and after the stack, in the order in which the op reads them. */
function tensorsOfEnds({norm, table, head}: ChainedModel): tf.NamedTensorMap {
  const named = {table: tensorsOf(table), head: tensorsOfProjection(head)};
  const entries = Object.entries(named).flatMap(([name, tensors]) =>
    Object.entries(tensors).map(([key, tensor]) => [`${name}.${key}`, tensor]),
  );
  return {norm, ...Object.fromEntries(entries)};
}

function planOf({attributes}: PreparedStack, {table, head}: ChainedModel): CardPlan {
  const plan = planOfStack(attributes);
  planWeight(plan, attributesOf(table));
  planProjection(plan, attributesOfProjection(head));
  return plan;
}

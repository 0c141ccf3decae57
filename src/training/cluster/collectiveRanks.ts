import * as tf from '@tensorflow/tfjs';
import {keptFor} from '../../../layers/kernels/keptFor.ts';
import {runOps} from '../../../layers/kernels/tensorflow/device/runOps.ts';
import {
  DataType,
  type OpAttribute,
  type TensorFlowBackend,
  type TensorFlowBinding,
} from '../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {packFlat} from '../../../layers/ops/packFlat.ts';
import {unpackFlat} from '../../../layers/ops/unpackFlat.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {loadTensorFlow} from '../backends/tensorflow.ts';
import {assertOwnCards, usedCard} from './assertOwnCards.ts';
import type {ClusterPlace} from './clusterPlace.ts';
import type {Ranks, SharedSums, WindowSums} from './ranks.ts';

/** 0 and 1 on a backend. Uploading a number would wait for the work that a card still has. */
const flagsOf = keptFor((_: tf.KernelBackend) => [0, 1].map((value) => tf.keep(tf.scalar(value))));

/** Milliseconds that a rank waits after a timeout before it fails. */
const LINGER_MS = 2000;

/** Milliseconds between checks whether the other ranks answer. After two without an answer, a rank is lost. */
const WATCH_MS = 5000;

/** Number of elements that are reduced in one op: 64 MiB. The gradients of most adapters are less. */
const BUCKET = 1 << 24;

/** Signal of a caller, and the one that follows it on all ranks. */
interface AgreedSignal {
  own: AbortSignal;
  agreed: AbortController;
}

/**
 * Ranks that reduce through TensorFlow's collective ops: NCCL between NVIDIA cards, gRPC otherwise. Any backend can
 * compute; TensorFlow adds up tensors of its own where they are, and those of other backends from host memory.
 *
 * Every reduction also counts the ranks that were told to stop, so that all stop after the same one.
 */
export class CollectiveRanks implements Ranks {
  readonly rank: number;
  readonly size: number;
  private readonly signals: AgreedSignal[] = [];
  private reductions = 0;
  private hasCheckedCards = false;

  /** @param timeout seconds after which a reduction fails that a rank has not reached */
  constructor(
    private readonly place: ClusterPlace,
    private readonly timeout: number,
  ) {
    this.rank = place.rank;
    this.size = place.addresses.length;
  }

  get isFirst(): boolean {
    return this.rank === 0;
  }

  share<T>(items: readonly T[]): T[] {
    return items.filter((_, i) => i % this.size === this.rank);
  }

  /** The loss and the stopped ranks are added up with the gradients. Nothing is read: the host waits for the card later. */
  async sumGradients({gradients, losses}: WindowSums): Promise<SharedSums> {
    await this.checkCards();
    const flag = flagsOf(tf.backend())[this.isStopped ? 1 : 0];
    const names = Object.keys(gradients);
    const own = [...Object.values(gradients), ...tf.tidy(() => [tf.addN(losses), flag.clone()])];
    tf.dispose(losses);
    const sums: tf.Tensor[] = [];
    try {
      for (const bucket of bucketsOf(own)) {
        const flat = packFlat(bucket);
        tf.dispose(bucket);
        const total = await this.sumTensor(flat);
        sums.push(
          ...unpackFlat(
            total,
            bucket.map(({shape}) => shape),
          ),
        );
        total.dispose();
      }
      const [loss, stopped] = sums.slice(names.length) as tf.Scalar[];
      return {
        gradients: Object.fromEntries(names.map((name, i) => [name, sums[i]])),
        losses: [loss],
        stopped: [stopped],
      };
    } catch (error) {
      tf.dispose([own, sums]);
      throw error;
    }
  }

  async sum(numbers: number[]): Promise<number[]> {
    await this.checkCards();
    const [stopped, ...sums] = await this.sumValues(Float32Array.of(this.isStopped ? 1 : 0, ...numbers));
    this.follow([stopped]);
    return sums;
  }

  async gather(text: string): Promise<string[]> {
    const bytes = new TextEncoder().encode(text);
    const lengths = await this.sum(
      Array.from({length: this.size}, (_, i) => (i === this.rank ? bytes.length : 0)),
    );
    const longest = Math.max(1, ...lengths);
    const own = new Float32Array(this.size * longest);
    own.set(bytes, this.rank * longest);
    const all = await this.sumValues(own);
    return lengths.map((length, i) =>
      new TextDecoder().decode(Uint8Array.from(all.subarray(i * longest, i * longest + length))),
    );
  }

  agreed(own: AbortSignal | undefined): AbortSignal | undefined {
    if (!own) return undefined;
    const known = this.signals.find((each) => each.own === own || each.agreed.signal === own);
    if (known && !known.agreed.signal.aborted) return known.agreed.signal;
    const agreed = new AbortController();
    this.signals.push({own, agreed});
    return agreed.signal;
  }

  /** Refuses ranks that share a card, before the first reduction. */
  private async checkCards(): Promise<void> {
    if (this.hasCheckedCards) return;
    this.hasCheckedCards = true;
    assertOwnCards(
      (await this.gather(JSON.stringify((await usedCard()) ?? null))).map((text) => JSON.parse(text)),
    );
  }

  private get isStopped(): boolean {
    return this.signals.some(({own, agreed}) => own.aborted && !agreed.signal.aborted);
  }

  follow([stopped]: number[]): void {
    if (stopped === 0) return;
    for (const {own, agreed} of this.signals)
      agreed.abort(own.aborted ? own.reason : new DOMException('Another rank was stopped', 'AbortError'));
  }

  /** Adds up a tensor over the ranks, and disposes the one given. */
  private async sumTensor(flat: tf.Tensor1D): Promise<tf.Tensor1D> {
    try {
      const backend = tf.backend() as ClusterBackend;
      if (tf.getBackend() !== 'tensorflow')
        return tf.tensor1d(await this.sumValues((await flat.data()) as Float32Array));
      const [info] = await this.guarded(backend, () =>
        runOps(backend, [flat], (ops, [x]) => [
          ops.one(
            'CollectiveReduceV2',
            [x, ops.integer(this.size), ops.integer(1), ops.integer(flat.size)],
            this.attributes(backend),
          ),
        ]),
      );
      return tf.engine().makeTensorFromTensorInfo(info) as tf.Tensor1D;
    } finally {
      flat.dispose();
    }
  }

  /** Adds up values in host memory over the ranks. */
  private async sumValues(values: Float32Array): Promise<Float32Array> {
    const backend = await this.engine();
    const binding = backend.binding;
    const integer = (value: number) => binding.createTensor([], DataType.int32, Int32Array.of(value));
    const ids = [binding.createTensor([values.length], DataType.float32, values)];
    ids.push(integer(this.size), integer(1), integer(values.length));
    try {
      const [{id}] = await this.guarded(backend, () =>
        binding.executeOp('CollectiveReduceV2', this.attributes(backend), ids, 1),
      );
      ids.push(id);
      return binding.tensorDataSync(id);
    } finally {
      for (const id of ids) binding.deleteTensor(id);
    }
  }

  /**
   * Returns the attributes of a reduction. Its inputs name the group, and the reduction by its number of elements: the
   * same name is used again once all ranks have finished.
   */
  private attributes({binding, isUsingGpuDevice}: ClusterBackend): OpAttribute[] {
    const {TF_ATTR_TYPE, TF_ATTR_STRING, TF_ATTR_INT} = binding;
    const text = (name: string, value: string) => ({name, type: TF_ATTR_STRING, value});
    return [
      {name: 'T', type: TF_ATTR_TYPE, value: DataType.float32},
      text('merge_op', 'Add'),
      text('final_op', 'Id'),
      text('communication_hint', isUsingGpuDevice ? 'nccl' : 'auto'),
      {name: 'Nordering_token', type: TF_ATTR_INT, value: 0},
    ];
  }

  /** Runs a reduction, which blocks until all ranks have reached it, and names the rank that prevents it. */
  private async guarded<R>({binding}: ClusterBackend, reduce: () => R): Promise<R> {
    this.reductions++;
    // To the launcher of `--processes`, which knows by it who is late.
    globalThis.process.send?.({reduction: this.reductions});
    try {
      binding.limitReduction(this.timeout);
      const reduced = reduce();
      if (this.reductions === 1) binding.watchRanks(this.rank, this.size, WATCH_MS);
      return reduced;
    } catch (error) {
      const {message} = error as Error;
      // The others time out a moment later, and must not take this rank for the one that is missing.
      if (isLate(message)) await new Promise((resolve) => setTimeout(resolve, LINGER_MS));
      throw this.lost(message);
    } finally {
      binding.limitReduction(0);
    }
  }

  private lost(message: string): TfjsLoraError {
    const {addresses} = this.place;
    const own = `rank ${this.rank}: expected all ranks to take part in a reduction, got:`;
    const advice =
      'Nothing that was saved is lost: start all ranks again to resume from the last checkpoint.';
    const silent = /rank (\d+) does not answer/.exec(message)?.[1];
    const gone = silent ?? (isLate(message) ? undefined : goneRank(message));
    const cause = isLate(message)
      ? `a rank that did not reach it within ${this.timeout} s`
      : message.replaceAll(/\s+/g, ' ');
    const got =
      gone === undefined
        ? cause
        : `rank ${gone} (${addresses[Number(gone)]}) ${silent ? 'does not answer' : 'has ended; its own output says why'}`;
    return new TfjsLoraError('RANK_LOST', `${own} ${got}. ${advice}`);
  }

  /** Returns the backend whose collective ops are used, and loads TensorFlow beside another backend. */
  private async engine(): Promise<ClusterBackend> {
    const name = tf.getBackend();
    if (name !== 'tensorflow' && tf.findBackend('tensorflow') == null) {
      await loadTensorFlow();
      await tf.setBackend(name); // the package makes its own backend the current one
    }
    const {TFJS_LORA_CLUSTER} = globalThis.process.env;
    if (TFJS_LORA_CLUSTER !== 'joined') {
      throw new TfjsLoraError(
        'BACKEND_UNAVAILABLE',
        `joinCluster rank ${this.rank}: expected TensorFlow to listen on ${this.place.addresses[this.rank]}, got: ` +
          `${TFJS_LORA_CLUSTER ?? 'an addon that cannot join a cluster'}. Is the port free?`,
      );
    }
    return tf.findBackend('tensorflow') as ClusterBackend;
  }
}

/** The backend of an addon that `setup tensorflow` compiled. */
type ClusterBackend = TensorFlowBackend & {
  binding: TensorFlowBinding & {
    readonly TF_ATTR_STRING: number;
    tensorDataSync(id: number): Float32Array;
    watchRanks(rank: number, size: number, milliseconds: number): void;
    limitReduction(seconds: number): void;
  };
};

const isLate = (message: string): boolean => /timed out/i.test(message);

/**
 * Returns the rank whose connection broke first. Every rank that loses a neighbour passes the error on, so that the
 * messages of several are nested, and only the innermost is not about an abort.
 */
function goneRank(message: string): string | undefined {
  const causes = message.matchAll(
    /task:(\d+) while calling [^:]*:[\s\\]*:UNKNOWN:.*?grpc_message:\\*"([^"]*)/gs,
  );
  const first = [...causes].find(([, , cause]) => !cause.startsWith('Collective'));
  return first?.[1] ?? /task:(\d+)/.exec(message)?.[1];
}

/** Groups tensors into buckets, in their order. A larger tensor has a bucket of its own. */
function bucketsOf(tensors: tf.Tensor[]): tf.Tensor[][] {
  const buckets: tf.Tensor[][] = [];
  let size = Number.POSITIVE_INFINITY;
  for (const tensor of tensors) {
    if (size + tensor.size > BUCKET) {
      buckets.push([]);
      size = 0;
    }
    buckets[buckets.length - 1].push(tensor);
    size += tensor.size;
  }
  return buckets;
}

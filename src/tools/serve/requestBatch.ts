import {ReadableStream, type ReadableStreamDefaultController} from 'node:stream/web';
import type {GenerativeModel, StreamTokensOptions} from '../../../models/generation/generateOptions.ts';
import {createRow, type GeneratedToken, newestToken, type Row} from '../../../models/generation/row.ts';
import {RowGroup, type RowStep} from '../../../models/generation/rowGroup.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';

/** A request that waits or is being answered. */
interface Request {
  row: Row;
  tokens: ReadableStreamDefaultController<GeneratedToken>;
  signal: AbortSignal;
}

/** A change of the model, for which no answer may be running. */
type Change = () => Promise<void>;

/**
 * Answers requests together. A request joins the others as soon as there is room, between two of their tokens; requests
 * begin in their order. Each answer is what the request would get alone.
 */
export class RequestBatch {
  private readonly waiting: (Request | Change)[] = [];
  private readonly answering = new Map<Row, Request>();
  private group?: RowGroup;
  private running?: Promise<void>;

  /** @param mostRows largest number of requests that are answered together */
  constructor(
    private readonly model: GenerativeModel,
    private readonly mostRows: number,
  ) {}

  /**
   * Returns the tokens of an answer.
   *
   * @param signal stops the answer before its next token, or before it begins
   * @throws TfjsLoraError as `generate`, immediately
   */
  answer(
    prompt: number[],
    options: StreamTokensOptions,
    signal: AbortSignal,
  ): ReadableStream<GeneratedToken> {
    const row = createRow(this.model, prompt, options);
    return new ReadableStream({start: (tokens) => this.add({row, tokens, signal})});
  }

  /** Runs a change of the model after the requests that came before it, and before those that come after it. */
  change<T>(run: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => this.add(() => run().then(resolve, reject)));
  }

  /** Resolves when nothing is running or waiting. */
  async idle(): Promise<void> {
    while (this.running) await this.running;
  }

  private add(task: Request | Change): void {
    this.waiting.push(task);
    this.running ??= this.run();
  }

  private async run(): Promise<void> {
    for (;;) {
      // Synchronous backends never let the event loop run: nothing would be sent, and no disconnect noticed.
      await new Promise((resume) => setImmediate(resume));
      this.dropAborted();
      const [first] = this.waiting;
      if (!this.group && first === undefined) break;
      if (!this.group && typeof first === 'function') {
        this.waiting.shift();
        await first();
      } else {
        await this.step();
      }
    }
    this.running = undefined;
  }

  /** Gives each answer its next token, and begins the requests that have room. */
  private async step(): Promise<void> {
    const joining = this.takeFitting();
    if (this.group) this.group = await this.advance(this.group);
    const added = joining.length > 0 ? await this.begin(joining) : undefined;
    if (!this.group) this.group = added;
    else if (added) this.group = this.joined(this.group, added);
  }

  /** Takes the next requests that have room. Together, they may need no more of a cache than one that fills it. */
  private takeFitting(): Request[] {
    const rows = this.group?.rows.length ?? 0;
    let columns = this.group?.columns ?? 0;
    const isFitting = (task: Request | Change | undefined, count: number): task is Request => {
      if (task === undefined || typeof task === 'function') return false;
      columns = Math.max(columns, task.row.ids.length);
      const {maxPositionEmbeddings} = this.model.config;
      return count === 1 || (count <= this.mostRows && count * columns <= maxPositionEmbeddings);
    };
    let count = 0;
    while (isFitting(this.waiting[count], rows + count + 1)) count++;
    return this.waiting.splice(0, count) as Request[];
  }

  private async begin(requests: Request[]): Promise<RowGroup | undefined> {
    const ready = requests.filter((request) => this.hasAdapter(request));
    const rows = ready.map(({row}) => row);
    if (rows.length === 0) return undefined;
    for (const request of ready) this.answering.set(request.row, request);
    try {
      return await this.advance(new RowGroup(this.model, rows));
    } catch (error) {
      this.fail(rows, error);
      return undefined;
    }
  }

  /** Whether a request's adapter is still there; if not, the request alone fails. */
  private hasAdapter({row: {adapterName}, tokens}: Request): boolean {
    try {
      if (adapterName !== undefined) this.model.rowAdapters?.([adapterName]).dispose();
      return true;
    } catch (error) {
      tokens.error(error);
      return false;
    }
  }

  /** Gives each row of a group its next token. Returns undefined if no row is left, because they ended or failed. */
  private async advance(group: RowGroup): Promise<RowGroup | undefined> {
    const {rows} = group;
    try {
      for (const step of await group.next()) this.deliver(step);
      if (group.rows.length > 0) return group;
    } catch (error) {
      this.fail(rows, error);
    }
    group.dispose();
    return undefined;
  }

  private joined(group: RowGroup, added: RowGroup): RowGroup | undefined {
    const rows = [...group.rows, ...added.rows];
    try {
      group.join(added);
      return group;
    } catch (error) {
      this.fail(rows, error);
      for (const each of [group, added]) each.dispose();
      return undefined;
    }
  }

  private deliver({row, piece, error}: RowStep): void {
    if (error !== undefined) {
      this.fail([row], error);
      return;
    }
    const tokens = this.answering.get(row)?.tokens;
    tokens?.enqueue(newestToken(row, piece));
    if (!row.isFinished) return;
    this.answering.delete(row);
    tokens?.close();
  }

  private fail(rows: readonly Row[], error: unknown): void {
    for (const row of rows) {
      row.isFinished = true;
      this.answering.get(row)?.tokens.error(error);
      this.answering.delete(row);
    }
  }

  private dropAborted(): void {
    for (const [i, task] of [...this.waiting.entries()].reverse()) {
      if (typeof task === 'function' || !task.signal.aborted) continue;
      this.waiting.splice(i, 1);
      task.tokens.error(task.signal.reason);
    }
    for (const {row, signal} of this.answering.values()) if (signal.aborted) this.fail([row], signal.reason);
    this.group?.dropFinished();
    if (this.group?.rows.length !== 0) return;
    this.group.dispose();
    this.group = undefined;
  }
}

/**
 * Returns the number of requests to answer together.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT`
 */
export function batchSizeFor({rotary}: GenerativeModel, wanted: number | undefined): number {
  if (wanted !== undefined && !(Number.isInteger(wanted) && wanted > 0)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `serveModel maxBatchSize: expected a whole number from 1, got ${show(wanted)}`,
    );
  }
  return rotary?.dependsOnLength ? 1 : (wanted ?? 8);
}

import type {KeyValueCache} from '../../layers/keyValueCache.ts';
import {hasKernel} from '../../layers/ops/dispatch.ts';
import {greedyChoiceOp} from '../../layers/ops/greedyChoice.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {Decoder} from './decoder.ts';
import type {GenerativeModel} from './generateOptions.ts';
import {advance, chooseToken, type Row, takesLargest} from './row.ts';
import {finiteChoice} from './sampler.ts';

/** The result of a row for a token. */
export interface RowStep {
  row: Row;
  /** The text that became certain. */
  piece: string;
  /** Why the row ended without its token. */
  error?: unknown;
}

/**
 * Rows that are generated together, one token each at a time. Finished rows leave, and others may join between two
 * tokens. The group has its own key-value cache.
 */
export class RowGroup {
  private readonly cache: KeyValueCache;
  private readonly decoder: Decoder;
  private adapters: ReturnType<typeof adaptersOf>;
  /** Number of padding columns before each row: every row's next token is in the same column. */
  private paddings: number[];
  private newPositions: number;

  /** @param rows rows without new tokens; their prompts run with the first token */
  constructor(
    private readonly model: GenerativeModel,
    public rows: readonly Row[],
  ) {
    this.adapters = adaptersOf(model, rows);
    this.cache = model.newCache();
    this.decoder = new Decoder(model, this.cache);
    this.newPositions = Math.max(...rows.map(({ids}) => ids.length));
    this.paddings = rows.map(({ids}) => this.newPositions - ids.length);
  }

  /** Number of columns of the batch, with padding. */
  get columns(): number {
    return this.rows.length === 0 ? 0 : this.paddings[0] + this.rows[0].ids.length;
  }

  /** Chooses each row's next token. Rows that it finishes leave. */
  async next(): Promise<RowStep[]> {
    const {rows, decoder, paddings, newPositions, adapters} = this;
    if (!adapters) this.model.assertOwnCall?.('generate');
    const isGreedy = hasKernel(greedyChoiceOp) && rows.every(takesLargest);
    const mayContinue = rows.every(({newIds, room}) => newIds.length + 1 < room);
    const batch = {ids: rows.map(({ids}) => ids), paddings, newPositions, adapters};
    const values = await decoder.next(batch, {isGreedy, mayContinue});
    const vocabulary = values.length / rows.length;
    const steps = rows.map((row, b): RowStep => {
      try {
        const id = isGreedy
          ? finiteChoice(values[b], row.index)
          : chooseToken(row, values.slice(b * vocabulary, (b + 1) * vocabulary) as Float32Array);
        return {row, piece: advance(row, id)};
      } catch (error) {
        row.isFinished = true;
        return {row, piece: '', error};
      }
    });
    this.newPositions = 1;
    this.dropFinished();
    return steps;
  }

  /** Drops rows that are finished, also those that their owner finished. */
  dropFinished(): void {
    const staying = this.rows.flatMap((row, i) => (row.isFinished ? [] : [i]));
    if (staying.length === this.rows.length) return;
    this.decoder.forget();
    if (staying.length > 0) this.cache.select(staying);
    this.rows = staying.map((i) => this.rows[i]);
    this.paddings = staying.map((i) => this.paddings[i]);
    this.prepareAdapters();
  }

  /** Takes over the rows of another group, which is disposed. Both have had a token. */
  join(other: RowGroup): void {
    this.decoder.forget();
    other.decoder.forget();
    const [own, others] = [this.cache.length, other.cache.length];
    const longest = Math.max(own, others);
    this.cache.join(other.cache);
    this.rows = [...this.rows, ...other.rows];
    this.paddings = [
      ...this.paddings.map((padding) => padding + longest - own),
      ...other.paddings.map((padding) => padding + longest - others),
    ];
    other.dispose();
    this.prepareAdapters();
  }

  private prepareAdapters(): void {
    this.adapters?.dispose();
    this.adapters = undefined;
    if (this.rows.length > 0) this.adapters = adaptersOf(this.model, this.rows);
  }

  dispose(): void {
    this.decoder.forget();
    this.cache.dispose();
    this.adapters?.dispose();
    this.adapters = undefined;
  }
}

/** Prepares the rows' adapters; undefined if the active ones apply. */
function adaptersOf(
  model: GenerativeModel,
  rows: readonly Row[],
): ReturnType<NonNullable<GenerativeModel['rowAdapters']>> | undefined {
  const names = rows.map(({adapterName}) => adapterName).filter((name) => name !== undefined);
  if (names.length === 0) return undefined;
  if (model.rowAdapters) return model.rowAdapters(names);
  throw new TfjsLoraError(
    'UNSUPPORTED',
    'generate adapterNames: expected a model with adapters, got one without',
  );
}

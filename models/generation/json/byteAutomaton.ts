/** A grammar of texts, over the bytes of UTF-8. */
export type Grammar =
  | {readonly kind: 'bytes'; readonly bytes: Uint8Array}
  /** One byte of a set: `has[byte]` is 1. */
  | {readonly kind: 'set'; readonly has: Uint8Array}
  | {readonly kind: 'sequence'; readonly parts: readonly Grammar[]}
  | {readonly kind: 'choice'; readonly options: readonly Grammar[]}
  | {readonly kind: 'repeat'; readonly part: Grammar; readonly least: number; readonly most: number}
  /** A grammar that is made when it is needed, so that grammars can contain themselves. */
  | {readonly kind: 'rule'; get(): Grammar};

/** What is still to come: the rest of a grammar from `at` on, and then the rest of the grammars around it. */
interface Pending {
  readonly id: number;
  readonly grammar: Grammar;
  /** Number of bytes, parts or repetitions that have come. */
  readonly at: number;
  readonly after: Pending | undefined;
}

/** A state of the automaton: all ways in which a text so far can continue. */
export interface AutomatonState {
  /** The bytes and sets that can come next. */
  readonly pending: readonly Pending[];
  /** Whether the text may end here. */
  readonly isComplete: boolean;
  /** The states after each byte that was tried; null where it cannot come. */
  readonly next: (AutomatonState | null | undefined)[];
}

/** Follows a grammar byte by byte. States are made when they are first reached, and equal ones are the same object. */
export class ByteAutomaton {
  readonly start: AutomatonState;
  private readonly grammarIds = new Map<Grammar, number>();
  private readonly pendings = new Map<string, Pending>();
  private readonly states = new Map<string, AutomatonState>();

  constructor(grammar: Grammar) {
    this.start = this.stateOf([this.pending(grammar, 0, undefined)]);
  }

  /** Returns the state after another byte; null if it cannot come. */
  step(state: AutomatonState, byte: number): AutomatonState | null {
    const known = state.next[byte];
    if (known !== undefined) return known;
    const reached: (Pending | undefined)[] = [];
    for (const {grammar, at, after} of state.pending) {
      if (grammar.kind === 'set' && grammar.has[byte]) reached.push(after);
      if (grammar.kind === 'bytes' && grammar.bytes[at] === byte)
        reached.push(this.pending(grammar, at + 1, after));
    }
    const next = reached.length > 0 ? this.stateOf(reached) : null;
    state.next[byte] = next;
    return next;
  }

  private stateOf(reached: readonly (Pending | undefined)[]): AutomatonState {
    const pending = new Map<number, Pending>();
    const seen = new Set<number>();
    let isComplete = false;
    const visit = (each: Pending | undefined): void => {
      if (each === undefined) isComplete = true;
      else if (!seen.has(each.id)) {
        seen.add(each.id);
        if (!this.expand(each, visit)) pending.set(each.id, each);
      }
    };
    reached.forEach(visit);
    const key = `${[...pending.keys()].sort((a, b) => a - b).join()}${isComplete}`;
    let state = this.states.get(key);
    if (!state) {
      state = {pending: [...pending.values()], isComplete, next: []};
      this.states.set(key, state);
    }
    return state;
  }

  /** Visits what comes instead of a part that consumes no byte itself. Returns false if it consumes one. */
  private expand({grammar, at, after}: Pending, visit: (each: Pending | undefined) => void): boolean {
    switch (grammar.kind) {
      case 'set':
        return false;
      case 'bytes':
        if (at < grammar.bytes.length) return false;
        visit(after);
        return true;
      case 'sequence': {
        const {parts} = grammar;
        if (at >= parts.length) visit(after);
        else
          visit(
            this.pending(parts[at], 0, at + 1 < parts.length ? this.pending(grammar, at + 1, after) : after),
          );
        return true;
      }
      case 'choice':
        for (const option of grammar.options) visit(this.pending(option, 0, after));
        return true;
      case 'repeat': {
        const {part, least, most} = grammar;
        if (at >= least) visit(after);
        // Without a limit, repetitions beyond the least number need no count.
        const count = most === Number.POSITIVE_INFINITY ? Math.min(at + 1, least) : at + 1;
        if (at < most) visit(this.pending(part, 0, this.pending(grammar, count, after)));
        return true;
      }
      case 'rule':
        visit(this.pending(grammar.get(), 0, after));
        return true;
    }
  }

  private pending(grammar: Grammar, at: number, after: Pending | undefined): Pending {
    let grammarId = this.grammarIds.get(grammar);
    if (grammarId === undefined) {
      grammarId = this.grammarIds.size;
      this.grammarIds.set(grammar, grammarId);
    }
    const key = `${grammarId}/${at}/${after?.id ?? ''}`;
    let pending = this.pendings.get(key);
    if (!pending) {
      pending = {id: this.pendings.size, grammar, at, after};
      this.pendings.set(key, pending);
    }
    return pending;
  }
}

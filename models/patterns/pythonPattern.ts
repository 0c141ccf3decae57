import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {hasNestedRepetition} from './backtracking.ts';
import {type PatternNode, parsePattern} from './parsePattern.ts';

/** Maximum number of parts of a pattern, with repetitions written out. */
const MAX_PARTS = 10_000;

/** A step of a compiled pattern. Numbers are indices of steps. */
type Step =
  | {readonly op: 'set'; readonly has: (codePoint: number) => boolean}
  | {readonly op: 'place'; readonly holds: (text: readonly number[], at: number) => boolean}
  | {readonly op: 'split'; first: number; second: number}
  | {readonly op: 'jump'; to: number}
  | {readonly op: 'look'; readonly program: Program; readonly width: number; readonly negated: boolean}
  | {readonly op: 'atomic'; readonly program: Program}
  | {readonly op: 'end'};

type Program = readonly Step[];

/**
 * A regular expression of Python's `re`, as in configs of PEFT and transformers. These files are not trusted: a
 * backtracking matcher, such as JavaScript's own, can take longer than the universe lasts. This one visits each place
 * of the pattern at each place of the text at most once.
 *
 * It supports all of `re` except references to groups, which no matcher can do in such time: flags (`(?i)`), named
 * groups, `\A` and `\Z`, lookahead and lookbehind, atomic groups and possessive quantifiers.
 */
export class PythonPattern {
  /** Whether Python, which backtracks, may never finish with it; see {@link hasNestedRepetition}. */
  readonly nestsRepetition: boolean;
  private readonly program: Program;

  /**
   * @param where place of the pattern, for messages
   * @throws TfjsLoraError `INVALID_ARGUMENT` naming what cannot be parsed
   */
  constructor(
    readonly source: string,
    where: string,
  ) {
    try {
      const node = parsePattern(source, 'python');
      this.program = new Compiler().compile(node);
      this.nestsRepetition = hasNestedRepetition(node);
    } catch (cause) {
      if (!(cause instanceof SyntaxError)) throw cause;
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `${where}: expected a regular expression as Python's re reads it, got ${show(source)}, with ${cause.message}`,
        {cause},
      );
    }
  }

  /** Whether the pattern matches the whole text, as `re.fullmatch`. */
  fullMatch(text: string): boolean {
    const codes = codesOf(text);
    return new Matcher(codes).run(this.program, 0, codes.length) !== undefined;
  }

  /** Whether the pattern matches at the start of the text, as `re.match`. */
  match(text: string): boolean {
    return new Matcher(codesOf(text)).run(this.program, 0) !== undefined;
  }
}

const codesOf = (text: string): number[] =>
  Array.from(text, (character) => character.codePointAt(0) as number);

class Compiler {
  private count = 0;

  compile(node: PatternNode): Program {
    const steps: Step[] = [];
    this.write(node, steps);
    steps.push({op: 'end'});
    return steps;
  }

  private write(node: PatternNode, steps: Step[]): void {
    if (++this.count > MAX_PARTS) throw new SyntaxError('too many repetitions');
    switch (node.kind) {
      case 'set':
        steps.push({op: 'set', has: node.has});
        break;
      case 'place':
        steps.push({op: 'place', holds: node.holds});
        break;
      case 'sequence':
        for (const part of node.parts) this.write(part, steps);
        break;
      case 'choice':
        this.writeChoice(node.branches, steps);
        break;
      case 'repeat':
        this.writeRepeat(node, steps);
        break;
      case 'atomic':
        steps.push({op: 'atomic', program: this.compile(node.body)});
        break;
      case 'look': {
        const width = node.behind ? widthOf(node.body) : 0;
        steps.push({op: 'look', program: this.compile(node.body), width, negated: node.negated});
      }
    }
  }

  private writeChoice(branches: readonly PatternNode[], steps: Step[]): void {
    const ends: {op: 'jump'; to: number}[] = [];
    for (const branch of branches.slice(0, -1)) {
      const split = {op: 'split' as const, first: steps.length + 1, second: 0};
      steps.push(split);
      this.write(branch, steps);
      const jump = {op: 'jump' as const, to: 0};
      steps.push(jump);
      ends.push(jump);
      split.second = steps.length;
    }
    this.write(branches[branches.length - 1], steps);
    for (const jump of ends) jump.to = steps.length;
  }

  private writeRepeat({body, min, max, lazy}: PatternNode & {kind: 'repeat'}, steps: Step[]): void {
    for (let i = 0; i < min; i++) this.write(body, steps);
    if (max === Number.POSITIVE_INFINITY) {
      const loop = steps.length;
      const split = pushSplit(steps);
      this.write(body, steps);
      steps.push({op: 'jump', to: loop});
      leave(split, loop + 1, steps.length, lazy);
      return;
    }
    const splits: [split: Step & {op: 'split'}, inside: number][] = [];
    for (let i = min; i < max; i++) {
      splits.push([pushSplit(steps), steps.length]);
      this.write(body, steps);
    }
    for (const [split, inside] of splits) leave(split, inside, steps.length, lazy);
  }
}

function pushSplit(steps: Step[]): Step & {op: 'split'} {
  const split = {op: 'split' as const, first: 0, second: 0};
  steps.push(split);
  return split;
}

/** Sets the two ways of a repetition. A greedy one repeats before it leaves. */
function leave(split: Step & {op: 'split'}, inside: number, outside: number, lazy: boolean): void {
  split.first = lazy ? outside : inside;
  split.second = lazy ? inside : outside;
}

/** Returns the number of characters a node takes, which must be fixed: Python's lookbehind requires it. */
function widthOf(node: PatternNode): number {
  const variable = () => new SyntaxError('a lookbehind of variable length');
  switch (node.kind) {
    case 'set':
      return 1;
    case 'place':
    case 'look':
      return 0;
    case 'sequence':
      return node.parts.reduce((sum, part) => sum + widthOf(part), 0);
    case 'choice': {
      const [width, ...others] = node.branches.map(widthOf);
      if (others.some((other) => other !== width)) throw variable();
      return width;
    }
    case 'atomic':
      return widthOf(node.body);
    case 'repeat':
      if (node.min !== node.max) throw variable();
      return node.min * widthOf(node.body);
  }
}

/** Matches programs against one text. */
class Matcher {
  /** The ends that programs found from a place, for lookaround and atomic groups. */
  private readonly found = new Map<Program, Map<number, number | undefined>>();

  constructor(private readonly text: readonly number[]) {}

  /**
   * Returns the end of the first match from `start`, in the order in which Python tries them.
   *
   * A step that failed at a place fails there whatever led to it, so none is tried twice.
   *
   * @param end place where the match must end, by default anywhere
   */
  run(program: Program, start: number, end?: number): number | undefined {
    const tried = new Uint8Array(program.length * (this.text.length + 1));
    const open: [step: number, at: number][] = [[0, start]];
    for (let state = open.pop(); state; state = open.pop()) {
      let [index, at] = state;
      for (;;) {
        const cell = index * (this.text.length + 1) + at;
        if (tried[cell]) break;
        tried[cell] = 1;
        const step = program[index];
        if (step.op === 'end') {
          if (end === undefined || at === end) return at;
          break;
        }
        if (step.op === 'jump') index = step.to;
        else if (step.op === 'split') {
          open.push([step.second, at]);
          index = step.first;
        } else {
          const next = this.advance(step, at);
          if (next === undefined) break;
          at = next;
          index++;
        }
      }
    }
    return undefined;
  }

  /** Returns the place after a step without alternatives, or undefined when it fails. */
  private advance(step: Exclude<Step, {op: 'end' | 'jump' | 'split'}>, at: number): number | undefined {
    switch (step.op) {
      case 'set':
        return at < this.text.length && step.has(this.text[at]) ? at + 1 : undefined;
      case 'place':
        return step.holds(this.text, at) ? at : undefined;
      case 'atomic':
        return this.runOnce(step.program, at);
      case 'look': {
        const from = at - step.width;
        const matches = from >= 0 && this.runOnce(step.program, from) !== undefined;
        return matches !== step.negated ? at : undefined;
      }
    }
  }

  private runOnce(program: Program, start: number): number | undefined {
    let ends = this.found.get(program);
    if (!ends) {
      ends = new Map();
      this.found.set(program, ends);
    }
    if (!ends.has(start)) ends.set(start, this.run(program, start));
    return ends.get(start);
  }
}

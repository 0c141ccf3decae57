import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {hasNestedRepetition} from './backtracking.ts';
import {type PatternNode, parsePattern} from './parsePattern.ts';

/** Patterns of more parts, repetitions written out, are refused. */
const MAX_PARTS = 10_000;

/** A step of a compiled pattern; numbers are indices of steps. */
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
 * A regular expression of Python's `re`, which configs of PEFT and transformers hold. Such a file may come from anyone:
 * where a backtracking matcher, JavaScript's own too, can take longer than the universe lasts, this one visits each place
 * of the pattern at each place of the text once.
 *
 * Everything of `re` is understood but references to groups, which no matcher does in such time: flags (`(?i)`), named
 * groups, `\A` and `\Z`, looking ahead and behind, atomic groups and possessive quantifiers.
 */
export class PythonPattern {
  /** Whether Python, which tries one way after the other, may never end with it; see {@link hasNestedRepetition}. */
  readonly nestsRepetition: boolean;
  private readonly program: Program;

  /**
   * @param where names the pattern's place in messages
   * @throws TfjsLoraError `INVALID_ARGUMENT` naming what cannot be read
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

  /** Whether it matches the whole text: `re.fullmatch`. */
  fullMatch(text: string): boolean {
    const codes = codesOf(text);
    return new Matcher(codes).run(this.program, 0, codes.length) !== undefined;
  }

  /** Whether it matches from the text's start: `re.match`. */
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
    if (++this.count > MAX_PARTS) throw new SyntaxError('more repetitions than can be written out');
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

/** Where a repetition goes: greedy, in again before out. */
function leave(split: Step & {op: 'split'}, inside: number, outside: number, lazy: boolean): void {
  split.first = lazy ? outside : inside;
  split.second = lazy ? inside : outside;
}

/** Characters that a node takes, always as many: Python looks behind at no other. */
function widthOf(node: PatternNode): number {
  const variable = () => new SyntaxError('a look behind at a text of no fixed length');
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
  /** By program: the end that it found from a place, for what looks around and for atomic groups. */
  private readonly found = new Map<Program, Map<number, number | undefined>>();

  constructor(private readonly text: readonly number[]) {}

  /**
   * The end of the first match from `start`, in the order in which Python tries them.
   *
   * A step that failed at a place fails there whatever led to it, so none is tried twice.
   *
   * @param end where the match must end; anywhere by default
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

  /** The place after a step that takes one way only, or undefined where it fails. */
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

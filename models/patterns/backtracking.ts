import type {PatternNode} from './parsePattern.ts';

/** A repetition with more optional rounds than this counts as endless. */
const MANY = 32;

/** Maximum number of ways through a pattern, without loops. */
const MAX_WAYS = 10_000;

/** Number of attempts that a backtracking matcher may need to fail on n characters: `ways · n^loops`. */
interface Effort {
  ways: number;
  loops: number;
}

/**
 * Says why a backtracking matcher, such as JavaScript's own, may need ages for a pattern; undefined when it never does,
 * because each repetition has only one way to repeat, and at most one of them must be undone when the rest fails. The
 * check is sound but not exact: it may reject a harmless pattern.
 */
export function backtrackingFault(pattern: PatternNode): string | undefined {
  try {
    const {ways, loops} = effortOf(pattern, true);
    if (loops > 1) return 'several endless repetitions before something that may fail';
    if (ways > MAX_WAYS) return `more than ${MAX_WAYS} ways to match one text`;
    return undefined;
  } catch (fault) {
    if (fault instanceof Branching) return fault.message;
    throw fault;
  }
}

/**
 * Whether an endless repetition contains another, as in `(a+)+`, so that a text can be divided between the two in
 * exponentially many ways.
 */
export function hasNestedRepetition(pattern: PatternNode): boolean {
  if (pattern.kind === 'repeat' && pattern.max === Number.POSITIVE_INFINITY && isLoop(pattern.body))
    return true;
  return partsOf(pattern).some(hasNestedRepetition);
}

/** Whether a node may consist only of an endless repetition. */
function isLoop(node: PatternNode): boolean {
  if (node.kind === 'repeat') return node.max === Number.POSITIVE_INFINITY || isLoop(node.body);
  if (node.kind === 'choice') return node.branches.some(isLoop);
  if (node.kind !== 'sequence') return false;
  return node.parts.some(
    (part, i) => isLoop(part) && node.parts.every((other, j) => i === j || isEmptyable(other)),
  );
}

function partsOf(node: PatternNode): readonly PatternNode[] {
  if (node.kind === 'sequence') return node.parts;
  if (node.kind === 'choice') return node.branches;
  return 'body' in node ? [node.body] : [];
}

/** The error for a repetition whose body matches in several ways. */
class Branching extends Error {}

/** @param isLast whether nothing follows that may fail, so that the first match is kept */
function effortOf(node: PatternNode, isLast: boolean): Effort {
  switch (node.kind) {
    case 'set':
    case 'place':
      return {ways: 1, loops: 0};
    case 'look':
    case 'atomic':
      return effortOf(node.body, true); // its first match is kept whatever follows
    case 'choice': {
      const efforts = node.branches.map((branch) => effortOf(branch, isLast));
      return {
        ways: efforts.reduce((sum, {ways}) => sum + ways, 0),
        loops: Math.max(...efforts.map(({loops}) => loops)),
      };
    }
    case 'sequence':
      return effortOfSequence(node.parts, isLast);
    case 'repeat':
      return effortOfRepeat(node, isLast);
  }
}

function effortOfSequence(parts: readonly PatternNode[], isLast: boolean): Effort {
  const end = parts.findLastIndex((part) => !isEmptyable(part));
  const effort = {ways: 1, loops: 0};
  for (const [i, part] of parts.entries()) {
    const {ways, loops} = effortOf(part, isLast && i >= end);
    effort.ways *= ways;
    effort.loops += loops;
  }
  return effort;
}

function effortOfRepeat({body, min, max}: PatternNode & {kind: 'repeat'}, isLast: boolean): Effort {
  if (max <= 1) {
    const {ways, loops} = effortOf(body, isLast);
    return {ways: isLast ? ways : ways + 1, loops};
  }
  const {ways, loops} = effortOf(body, false);
  if (ways > 1 || loops > 0) throw new Branching('a repetition whose body matches in several ways');
  if (isLast) return {ways: 1, loops: 0};
  return max - min > MANY ? {ways: 1, loops: 1} : {ways: max - min + 1, loops: 0};
}

/** Whether a node matches the empty text everywhere. */
function isEmptyable(node: PatternNode): boolean {
  switch (node.kind) {
    case 'set':
    case 'place':
    case 'look':
      return false;
    case 'atomic':
      return isEmptyable(node.body);
    case 'sequence':
      return node.parts.every(isEmptyable);
    case 'choice':
      return node.branches.some(isEmptyable);
    case 'repeat':
      return node.min === 0 || isEmptyable(node.body);
  }
}

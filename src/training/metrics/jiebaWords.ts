import {TfjsLoraError} from '../../../quant/errors.ts';

/** Splits a text into words. */
export type WordCutter = (text: string) => string[];

/**
 * The data for splitting a text: the frequency of each word in the dictionary (0 for its prefixes), and jieba's hidden
 * Markov model, which splits runs of Chinese characters that are not in the dictionary.
 */
interface Lexicon {
  frequencies: ReadonlyMap<string, number>;
  logTotal: number;
  cutUnknown(run: string): string[];
}

/** A Chinese character, by jieba's definition. */
const CHINESE = /[\u4E00-\u9FD5]/;
/** A run of characters that can be part of a word; every other character is a word of its own. */
const BLOCKS = /([\u4E00-\u9FD5a-zA-Z0-9+#&._%-]+)/;
const CHINESE_RUNS = /([\u4E00-\u9FD5]+)/;
const NUMBERS_AND_NAMES = /([a-zA-Z0-9]+(?:\.\d+)?%?)/;

/** The words of the dictionary without Chinese characters, which are enough for other text. */
const WESTERN_WORDS: ReadonlyMap<string, number> = new Map([
  ['AT&T', 3],
  ['c#', 3],
  ['C#', 3],
  ['c++', 3],
  ['C++', 3],
]);

let chinese: Promise<Lexicon> | undefined;

/**
 * Returns a function that splits a text as Python's `jieba.cut(text)` does, whose words LLaMA-Factory's ROUGE compares:
 * by the likeliest path through the dictionary, and by the hidden Markov model for words that it lacks.
 *
 * Dictionary and model come from `@node-rs/jieba`, which is loaded once, and only if a text has Chinese characters. Its
 * own `cut` is not used for whole texts, because it splits names and numbers with hyphens and other signs differently
 * from Python's.
 *
 * @param texts texts that will be split; they decide whether the dictionary is needed
 * @throws TfjsLoraError `UNSUPPORTED` when a text has Chinese characters and `@node-rs/jieba` is not installed
 */
export async function jiebaWords(texts: Iterable<string>): Promise<WordCutter> {
  let needsDictionary = false;
  for (const text of texts) needsDictionary ||= CHINESE.test(text);
  if (!needsDictionary) return cutterOf(WESTERN);
  chinese ??= loadChinese();
  try {
    return cutterOf(await chinese);
  } catch (error) {
    chinese = undefined; // it may be installed by the next call
    throw error;
  }
}

async function loadChinese(): Promise<Lexicon> {
  let packages: [typeof import('@node-rs/jieba'), typeof import('@node-rs/jieba/dict')];
  try {
    packages = await Promise.all([import('@node-rs/jieba'), import('@node-rs/jieba/dict.js')]);
  } catch (cause) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      'ROUGE over jieba words: expected the package @node-rs/jieba, which Chinese text needs, got none that loads ' +
        `(${(cause as Error).message.split('\n')[0]}). Install it: npm install @node-rs/jieba`,
      {cause},
    );
  }
  const [{Jieba}, {dict}] = packages;
  const frequencies = new Map<string, number>();
  let total = 3; // Python's list has one word twice, so its frequency of 3 counts twice in the total
  for (const line of new TextDecoder().decode(dict).split('\n')) {
    const [word, count] = line.split(' ');
    if (word === '' || count === undefined) continue;
    frequencies.set(word, Number(count));
    total += Number(count);
  }
  for (const word of [...frequencies.keys()]) {
    for (let length = 1; length < word.length; length++) {
      const start = word.slice(0, length);
      if (!frequencies.has(start)) frequencies.set(start, 0);
    }
  }
  const withoutWords = new Jieba();
  return {frequencies, logTotal: Math.log(total), cutUnknown: (run) => withoutWords.cut(run, true)};
}

const WESTERN: Lexicon = {
  frequencies: new Map(
    [...WESTERN_WORDS.keys()]
      .flatMap((word) => Array.from(word, (_, end): [string, number] => [word.slice(0, end + 1), 0]))
      .concat([...WESTERN_WORDS]),
  ),
  logTotal: 0,
  cutUnknown: (run) => [run], // never called, because it only splits Chinese runs
};

function cutterOf(lexicon: Lexicon): WordCutter {
  return (text) =>
    text.split(BLOCKS).flatMap((block, index) => {
      // A split by a group returns the matches at odd indices.
      if (index % 2 === 1) return cutBlock(block, lexicon);
      return block.match(/\r\n|./gsu) ?? [];
    });
}

/** Splits a block by the likeliest path. Runs of single characters are split again by {@link cutSingles}. */
function cutBlock(block: string, lexicon: Lexicon): string[] {
  const ends = likeliestEnds(block, lexicon);
  const words: string[] = [];
  let singles = '';
  const endSingles = () => {
    if (singles.length === 1) words.push(singles);
    else if (singles !== '') {
      // These characters form a word of the dictionary, but the path decided that they are separate.
      if (lexicon.frequencies.get(singles)) words.push(...singles);
      else words.push(...cutSingles(singles, lexicon));
    }
    singles = '';
  };
  for (let start = 0; start < block.length; start = ends[start]) {
    if (ends[start] === start + 1) {
      singles += block[start];
      continue;
    }
    endSingles();
    words.push(block.slice(start, ends[start]));
  }
  endSingles();
  return words;
}

/**
 * Returns, for each position in a block, the end of the word that starts there on the path with the largest product of
 * frequencies. Of equal paths, the one with the longest word wins.
 */
function likeliestEnds(block: string, {frequencies, logTotal}: Lexicon): number[] {
  const ends = new Array<number>(block.length);
  const scores = new Float64Array(block.length + 1);
  for (let start = block.length - 1; start >= 0; start--) {
    scores[start] = Number.NEGATIVE_INFINITY;
    const consider = (end: number) => {
      const count = frequencies.get(block.slice(start, end)) || 1;
      const score = Math.log(count) - logTotal + scores[end];
      if (score >= scores[start]) {
        scores[start] = score;
        ends[start] = end;
      }
    };
    for (let end = start + 1; end <= block.length; end++) {
      const count = frequencies.get(block.slice(start, end));
      if (count === undefined) break; // not even a prefix of a word
      if (count > 0) consider(end);
    }
    if (ends[start] === undefined) consider(start + 1);
  }
  return ends;
}

/** Splits Chinese runs by the hidden Markov model, and keeps numbers and names whole. */
function cutSingles(singles: string, {cutUnknown}: Lexicon): string[] {
  return singles.split(CHINESE_RUNS).flatMap((part, index) => {
    if (index % 2 === 1) return cutUnknown(part);
    return part.split(NUMBERS_AND_NAMES).filter((piece) => piece !== '');
  });
}

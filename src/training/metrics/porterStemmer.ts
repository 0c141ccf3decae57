/**
 * Porter's stemmer (M. F. Porter, "An algorithm for suffix stripping", 1980) with the additions of NLTK's
 * `NLTK_EXTENSIONS` mode, which Google's rouge_score uses: irregular forms, words of one or two letters unchanged,
 * `-ies`/`-ied` of four-letter words, `-y` only after a consonant, `-alli` before `-bli`, `-fulli` and `-logi`, and a
 * two-letter stem such as `on` treated as short.
 */

/** Words with irregular stems. */
const IRREGULAR: ReadonlyMap<string, string> = new Map([
  ['sky', 'sky'],
  ['skies', 'sky'],
  ['dying', 'die'],
  ['lying', 'lie'],
  ['tying', 'tie'],
  ['news', 'news'],
  ['innings', 'inning'],
  ['inning', 'inning'],
  ['outings', 'outing'],
  ['outing', 'outing'],
  ['cannings', 'canning'],
  ['canning', 'canning'],
  ['howe', 'howe'],
  ['proceed', 'proceed'],
  ['exceed', 'exceed'],
  ['succeed', 'succeed'],
]);

/**
 * A suffix, its replacement, and an optional condition on the rest of the word. The first suffix that matches decides.
 */
type Rule = readonly [suffix: string, replacement: string, holds?: (stem: string) => boolean];

/**
 * Returns the stem of an English word in lower case.
 *
 * @param word word in any case
 */
export function porterStem(word: string): string {
  const lower = word.toLowerCase();
  const irregular = IRREGULAR.get(lower);
  if (irregular !== undefined) return irregular;
  if (lower.length <= 2) return lower;
  return [
    plural,
    pastAndParticiple,
    finalY,
    doubleSuffix,
    fullSuffix,
    lastSuffix,
    finalE,
    finalDoubleL,
  ].reduce((stem, step) => step(stem), lower);
}

/** Returns which letters are consonants: all except a, e, i, o, u, and y after a consonant. */
function consonants(word: string): boolean[] {
  const flags: boolean[] = [];
  for (const letter of word) {
    if ('aeiou'.includes(letter)) flags.push(false);
    else flags.push(letter !== 'y' || flags.length === 0 || !flags[flags.length - 1]);
  }
  return flags;
}

/** Computes Porter's m: the number of times a consonant follows a vowel. */
function measure(word: string): number {
  const flags = consonants(word);
  let count = 0;
  for (let i = 1; i < flags.length; i++) if (flags[i] && !flags[i - 1]) count++;
  return count;
}

const hasMeasure = (stem: string): boolean => measure(stem) > 0;
const hasLongMeasure = (stem: string): boolean => measure(stem) > 1;
const hasVowel = (stem: string): boolean => consonants(stem).includes(false);

function endsInDoubleConsonant(word: string): boolean {
  return word.length >= 2 && word.at(-1) === word.at(-2) && consonants(word).at(-1) === true;
}

/** Whether a word ends in consonant, vowel, consonant other than w, x or y (`hop`), or is vowel, consonant (`on`). */
function isShort(word: string): boolean {
  const flags = consonants(word);
  if (word.length === 2) return !flags[0] && flags[1];
  const [first, second, third] = flags.slice(-3);
  return word.length >= 3 && first && !second && third && !'wxy'.includes(word.at(-1) as string);
}

function applyFirst(word: string, rules: readonly Rule[]): string {
  for (const [suffix, replacement, holds] of rules) {
    if (!word.endsWith(suffix)) continue;
    const stem = word.slice(0, word.length - suffix.length);
    return holds === undefined || holds(stem) ? stem + replacement : word;
  }
  return word;
}

/** Step 1a: caresses → caress, ponies → poni, cats → cat. */
function plural(word: string): string {
  if (word.length === 4 && word.endsWith('ies')) return word.slice(0, -1); // dies → die
  return applyFirst(word, [
    ['sses', 'ss'],
    ['ies', 'i'],
    ['ss', 'ss'],
    ['s', ''],
  ]);
}

/** Step 1b: agreed → agree, plastered → plaster, hopping → hop, filing → file. */
function pastAndParticiple(word: string): string {
  if (word.endsWith('ied')) return word.slice(0, word.length === 4 ? -1 : -2); // died → die, spied → spi
  if (word.endsWith('eed')) return applyFirst(word, [['eed', 'ee', hasMeasure]]);
  const suffix = ['ed', 'ing'].find(
    (ending) => word.endsWith(ending) && hasVowel(word.slice(0, -ending.length)),
  );
  if (suffix === undefined) return word;
  const stem = word.slice(0, -suffix.length);
  const restored: Rule[] = [
    ['at', 'ate'],
    ['bl', 'ble'],
    ['iz', 'ize'],
  ];
  if (restored.some(([ending]) => stem.endsWith(ending))) return applyFirst(stem, restored);
  if (endsInDoubleConsonant(stem)) return 'lsz'.includes(stem.at(-1) as string) ? stem : stem.slice(0, -1);
  return measure(stem) === 1 && isShort(stem) ? `${stem}e` : stem;
}

/** Step 1c: happy → happi, but enjoy is unchanged. */
function finalY(word: string): string {
  return applyFirst(word, [['y', 'i', (stem) => stem.length > 1 && consonants(stem).at(-1) === true]]);
}

/** Step 2: relational → relate, hopefulness → hopeful. */
function doubleSuffix(word: string): string {
  if (word.endsWith('alli') && hasMeasure(word.slice(0, -4))) return doubleSuffix(word.slice(0, -2));
  return applyFirst(word, [
    ['ational', 'ate', hasMeasure],
    ['tional', 'tion', hasMeasure],
    ['enci', 'ence', hasMeasure],
    ['anci', 'ance', hasMeasure],
    ['izer', 'ize', hasMeasure],
    ['bli', 'ble', hasMeasure],
    ['alli', 'al', hasMeasure],
    ['entli', 'ent', hasMeasure],
    ['eli', 'e', hasMeasure],
    ['ousli', 'ous', hasMeasure],
    ['ization', 'ize', hasMeasure],
    ['ation', 'ate', hasMeasure],
    ['ator', 'ate', hasMeasure],
    ['alism', 'al', hasMeasure],
    ['iveness', 'ive', hasMeasure],
    ['fulness', 'ful', hasMeasure],
    ['ousness', 'ous', hasMeasure],
    ['aliti', 'al', hasMeasure],
    ['iviti', 'ive', hasMeasure],
    ['biliti', 'ble', hasMeasure],
    ['fulli', 'ful', hasMeasure],
    // The l counts as part of the stem, so that geologi is shortened as archaeologi is.
    ['logi', 'log', (stem) => hasMeasure(`${stem}l`)],
  ]);
}

/** Step 3: triplicate → triplic, goodness → good. */
function fullSuffix(word: string): string {
  return applyFirst(word, [
    ['icate', 'ic', hasMeasure],
    ['ative', '', hasMeasure],
    ['alize', 'al', hasMeasure],
    ['iciti', 'ic', hasMeasure],
    ['ical', 'ic', hasMeasure],
    ['ful', '', hasMeasure],
    ['ness', '', hasMeasure],
  ]);
}

const LAST_SUFFIXES = 'al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize'.split(
  ' ',
);

/** Step 4: revival → reviv, adoption → adopt. */
function lastSuffix(word: string): string {
  return applyFirst(
    word,
    LAST_SUFFIXES.map((suffix): Rule => {
      if (suffix !== 'ion') return [suffix, '', hasLongMeasure];
      return [suffix, '', (stem) => hasLongMeasure(stem) && /[st]$/.test(stem)];
    }),
  );
}

/** Step 5a: probate → probat, cease → ceas, but rate is unchanged. */
function finalE(word: string): string {
  return applyFirst(word, [
    ['e', '', (stem) => measure(stem) > 1 || (measure(stem) === 1 && !isShort(stem))],
  ]);
}

/** Step 5b: controll → control. */
function finalDoubleL(word: string): string {
  return applyFirst(word, [['ll', 'l', (stem) => hasLongMeasure(`${stem}l`)]]);
}

"""Makes the golden numbers of src/training/metrics with the Python packages that define the metrics.

Writes fixtures/metrics.json. Needs Python 3.11+ and
    pip install rouge-score==0.1.2 nltk==3.10.4 sacrebleu==2.6.0
Run: python test/src/training/metrics/make_fixtures.py
"""

import json
import random
import string
from importlib.metadata import version
from pathlib import Path

from nltk.stem.porter import PorterStemmer
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU

PINNED = {'rouge-score': '0.1.2', 'nltk': '3.10.4', 'sacrebleu': '2.6.0'}
for package, expected in PINNED.items():
    assert version(package) == expected, f'{package}: expected {expected}, got {version(package)}'

random.seed(20)

# --- pairs of texts ------------------------------------------------------------------------------------------------
WORDS = (
    'The the bill Bill directs requires requiring required agencies agency agency\'s study studies studying of to for '
    'grants granting $5,000,000 3.5% 2029 U.S. "Clean Water Act" (Sec. 3) relational hopefulness flies dies dying news '
    'e-mail 10-year don\'t co-operate; repairing repaired bridges, bridge. &amp; &quot;quoted&quot; a/b naïve 日本 — …'
).split(' ')


def sentence(low, high):
    return ' '.join(random.choice(WORDS) for _ in range(random.randint(low, high)))


def edited(text):
    words = text.split(' ')
    for _ in range(random.randint(0, len(words) // 2)):
        i = random.randrange(len(words))
        words[i:i + 1] = random.choice([[], [random.choice(WORDS)], [words[i], random.choice(WORDS)]])
        words = words or ['x']
    if random.random() < .3:
        i = random.randrange(len(words))
        words = words[i:] + words[:i]
    return random.choice([' ', ' ', ' ', '\n']).join(words)


pairs = [
    ['The quick brown dog jumps on the log.', 'The quick brown fox jumps over the lazy dog'],
    ['', 'something'],
    ['something', ''],
    ['...', '!!!'],
    ['same text, same score', 'same text, same score'],
    ['one', 'one'],
    ['a b', 'a b c d e f'],
    ['police killed the gunman\nthe gunman was killed', 'the gunman police killed\npolice ended the gunman'],
    ['first line here\n\nsecond line here\n', 'second line there\nfirst line here'],
    ['the the the the the the the', 'the cat is on the mat'],
    ['Directs the Department of Energy to award grants. Authorizes $5,000,000 a year through 2029.',
     'Directs the Department of Agriculture to award grants. Authorizes $5,000,000 for 2029.'],
    ['<skipped> hyphen-\nated &lt;tag&gt; 1,000.50, 3-4 x.y', 'hyphenated <tag> 1,000.50 , 3 - 4 x . y'],
]
for _ in range(60):
    reference = '\n'.join(sentence(2, 14) for _ in range(random.randint(1, 3)))
    pairs.append([edited(reference), reference])

scorers = {stem: rouge_scorer.RougeScorer(['rouge1', 'rouge2', 'rougeL', 'rougeLsum'], use_stemmer=stem)
           for stem in (False, True)}


def rouge(prediction, reference, stem):
    scores = scorers[stem].score(reference, prediction)
    return {name: [score.precision, score.recall, score.fmeasure] for name, score in scores.items()}


# --- BLEU ----------------------------------------------------------------------------------------------------------
def bleu(some):
    result = BLEU().corpus_score([p for p, _ in some], [[r for _, r in some]])
    return {'score': result.score, 'precisions': result.precisions, 'brevityPenalty': result.bp,
            'predictionLength': result.sys_len, 'referenceLength': result.ref_len}


corpora = [list(range(len(pairs))), list(range(12, 30)), [0], [3], [5], [6], [9], [10], [11], [1], list(range(30, 72))]

# --- words and their stems -----------------------------------------------------------------------------------------
STEMS = ('relat condition ration valenc hesit digit conform radic differ vile analog vietnam predic oper feud decis hope '
         'callous form sensit sensib triplic electr good reviv allow infer air gyroscop adjust defens irrit replac depend '
         'adopt homolog commun activ angular effect bowdler prob rat ceas control rol enjo happ sk d l t sp tr geo archaeo '
         'hop tan fal his fiz fail fil siz troubl conflat plaster motor s f agr by y yy oat ivy tree on in at e').split()
SUFFIXES = ('s es ies sses ss eed ed ing ied y ational tional enci anci izer bli abli alli entli eli ousli ization ation '
            'ator alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance '
            'ence er ic able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize e l ll ly').split()
IRREGULAR = ('sky skies dying lying tying news innings inning outings outing cannings canning howe proceed exceed succeed '
             'a is be was 1990s 2nd x86 aaa eee yes say says said dyed').split()
words = sorted({stem + suffix for stem in random.sample(STEMS, 60) for suffix in random.sample(SUFFIXES, 14)}
               | {''.join(random.choice(string.ascii_lowercase) for _ in range(random.randint(1, 9))) for _ in range(60)}
               | set(IRREGULAR) | set(STEMS))
stemmer = PorterStemmer()

# --- all together --------------------------------------------------------------------------------------------------
golden = {
    'versions': PINNED,
    'pairs': [{'prediction': p, 'reference': r, 'plain': rouge(p, r, False), 'stemmed': rouge(p, r, True),
               'characterBleu': float(sentence_bleu([list(r)], list(p), smoothing_function=SmoothingFunction().method3))}
              for p, r in pairs],
    'corpora': [{'pairs': some, **bleu([pairs[i] for i in some])} for some in corpora],
    'stems': ' '.join(f'{word}:{stemmer.stem(word)}' for word in words),
}
path = Path(__file__).parent / 'fixtures' / 'metrics.json'
path.write_text(json.dumps(golden, ensure_ascii=False, separators=(',', ':')) + '\n', encoding='utf8')
print(path, path.stat().st_size, 'bytes,', len(pairs), 'pairs,', len(words), 'words')

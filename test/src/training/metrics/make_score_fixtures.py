"""Makes golden numbers for all metrics on the same texts: LLaMA-Factory's and the standard English ones.

Writes fixtures/scores.json: texts of many kinds, jieba's words of each, every score of each pair from the package that
defines it, and the means of whole groups. Needs Python 3.11+ and
    pip install jieba==0.42.1 rouge-chinese==1.0.3 rouge-score==0.1.2 nltk==3.10.4 sacrebleu==2.6.0
Run: python test/src/training/metrics/make_score_fixtures.py
"""

import json
import logging
import random
from importlib.metadata import version
from pathlib import Path

import jieba
import numpy as np
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_chinese import Rouge
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU

PINNED = {'jieba': '0.42.1', 'rouge-chinese': '1.0.3', 'rouge-score': '0.1.2', 'nltk': '3.10.4', 'sacrebleu': '2.6.0'}
for package, expected in PINNED.items():
    assert version(package) == expected, f'{package}: expected {expected}, got {version(package)}'

jieba.setLogLevel(logging.ERROR)
random.seed(4)

GROUPS = {
    'english': [
        ('Directs the Secretary of Energy to award grants. Authorizes $5,000,000 a year through 2029.',
         'Directs the Department of Energy to award grants to States. Authorizes $5,000,000 for 2029.'),
        ('The quick brown dog jumps on the log.', 'The quick brown fox jumps over the lazy dog'),
        ('Is it so? Yes! It is... "Quoted." It ends', 'Is it not so? Yes! It is. "Quoted," it ends'),
        ('GPT-4 beats GPT-3.5 by 10% on a 10-year C++ benchmark (U.S. e-mail, AT&T).',
         'GPT-4 beat GPT-3.5 by 9.5% on the 10-year C# benchmark of U.S. e-mail at AT&T.'),
        ('First line here\n\nsecond line here\n', 'second line there\nfirst line here'),
        ('tabs\tand   spaces \r\n everywhere', 'tabs and spaces everywhere'),
    ],
    'chinese': [
        ('我来到北京清华大学。', '我来到了北京的清华大学！'),
        ('他来到了网易杭研大厦，小明硕士毕业于中国科学院计算所。', '小明硕士毕业于中国科学院计算所，后在日本京都大学深造。'),
        ('本法案指示能源部长向各州拨款。授权在2029财年之前每年拨款500万美元。', '该法案指示能源部向各州提供补助金，并授权每年500万美元，直至2029年。'),
        ('今天天气真好？是的！我们去公园散步……然后回家。”', '今天天气很好。我们去公园散步，然后回家吃饭。'),
        ('工信处女干事每月经过下属科室都要亲口交代24口交换机等技术性器件的安装工作', '工信处的女干事每月都要交代交换机的安装工作'),
        ('龘靐齉爩麤灪', '龘龘靐靐齉'),
    ],
    'mixed': [
        ('使用LoRA微调LLaMA-3.2模型，rank=8，学习率1e-4。', '我们用QLoRA微调了LLaMA 3.2，rank为16，学习率是2e-4。'),
        ('IC卡和T恤在4S店用C++写的,AA制', 'T恤、IC卡:A股B股 C语言'),
        ('阿Q正传 by 鲁迅, 1921年.', '《阿Q正传》，鲁迅著，1921.12'),
        ('GPT-4的BLEU-4是19.64%，比base高50%_左右', 'GPT-4 的 BLEU-4 为 19.64 %'),
        ('3.14 和 3,14 与 .5 及 5. 还有 a.b.c', '3.14和3.15，a.b'),
    ],
    'empty': [
        ('', 'something'), ('something', ''), ('', ''), (' \n', '我们'), ('我们', ' \t '), ('...', '!!!'), ('？ \n ？', '？'),
    ],
    'short': [
        ('a', 'a'), ('a', 'b'), ('ab', 'ab'), ('我', '我'), ('我', '你'), ('我们', '我们的'), ('.', '.'), ('ok', 'ok.'), ('1', '1 2 3'),
    ],
    'repeated': [
        ('the the the the the the the', 'the cat is on the mat'),
        ('哈哈哈哈哈哈哈哈', '哈哈'),
        ('很好很好很好很好', '很好，非常好。'),
        ('a a a a b b b b', 'b b a a'),
        ('。。。。。。', '。'),
        ('no no no ...... yes ...... no', 'no ...... yes'),
    ],
    'unicode': [
        ('naïve café e\u0301té ﬁn Ⅷ', 'naive cafe été fin VIII'),
        ('日本語のテキストを要約する。東京', '日本語の文章を要約した。京都'),
        ('한국어 문장 요약', '한국어 요약 문장'),
        ('😀😀👩‍👩‍👧 ok', '😀 👩‍👩‍👧 OK'),
        ('𠀀𠀁GPT-4，鿕鿖', '𠀀GPT-4鿕'),
        ('全角：ＡＢＣ１２３\u3000空格', '全角:ABC123 空格'),
        ('non\u00a0breaking\u2003em\x1csep\x85next\ufeffbom', 'non breaking em sep next bom'),
        ('γ射线和X光，Привет', 'X射线与γ射线 привет'),
    ],
}

# More random texts: words from jieba's own dictionary, mixed with western ones and signs.
WORDS = [word for word in sorted(w for w, count in (jieba.initialize() or jieba.dt.FREQ).items() if count > 300)]
WESTERN = 'the Bill U.S. 3.14 10% e-mail C++ a_b GPT-4 2029 $5,000,000 ... ...... -- &amp; #tag 50%的 naïve AT&T x+y'.split(' ')
SIGNS = list('，。！？、“”…《》 \n') + [', ', '. ', '? ', '; ', ' - ', '(', ')']


def random_text():
    kinds = random.choice([(WORDS,), (WORDS, SIGNS), (WESTERN, SIGNS), (WORDS, WESTERN, SIGNS), (WORDS, WORDS, [' '])])
    return ''.join(random.choice(random.choice(kinds)) for _ in range(random.randint(3, 30)))


def edited(text):
    for _ in range(random.randint(1, 4)):
        at = random.randint(0, len(text))
        text = text[:at] + random.choice([random.choice(WORDS), random.choice(SIGNS), '']) + text[at + random.randint(0, 6):]
    return text


GROUPS['random'] = [(edited(text), text) for text in (random_text() for _ in range(60))]

english = rouge_scorer.RougeScorer(['rouge1', 'rouge2', 'rougeL', 'rougeLsum'], use_stemmer=True)


def scores_of(prediction, reference):
    """Scores a sample as LLaMA-Factory does, with each number rounded to 4 places."""
    words, target = [' '.join(jieba.cut(text)) for text in (prediction, reference)]
    if words.split() and target.split():
        rouge = {name: score['f'] for name, score in Rouge().get_scores(words, target)[0].items()}
    else:
        rouge = {'rouge-1': 0.0, 'rouge-2': 0.0, 'rouge-l': 0.0}
    bleu = sentence_bleu([list(reference)], list(prediction), smoothing_function=SmoothingFunction().method3)
    return {name: round(value * 100, 4) for name, value in {'bleu-4': bleu, **rouge}.items()}


def group_of(pairs):
    samples = [scores_of(*pair) for pair in pairs]
    standard = [english.score(reference, prediction) for prediction, reference in pairs]
    predictions, references = zip(*pairs)
    return {
        'pairs': [{'prediction': p, 'reference': r, 'words': [list(jieba.cut(p)), list(jieba.cut(r))], 'scores': scores}
                  for (p, r), scores in zip(pairs, samples)],
        'llamaFactory': {name: float(np.mean([sample[name] for sample in samples])) for name in samples[0]},
        'standard': {**{name: 100 * float(np.mean([score[name].fmeasure for score in standard])) for name in standard[0]},
                     'bleu': BLEU().corpus_score(list(predictions), [list(references)]).score},
    }


golden = {'versions': PINNED, 'groups': {name: group_of(pairs) for name, pairs in GROUPS.items()}}
path = Path(__file__).parent / 'fixtures' / 'scores.json'
path.write_text(json.dumps(golden, ensure_ascii=False, separators=(',', ':')) + '\n', encoding='utf8')
print(path, path.stat().st_size, 'bytes')

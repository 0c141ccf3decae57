"""Writes pythonPattern.json: matches of patterns in names by Python's re. Python 3.11 or later, standard library only.

    python3 test/models/patterns/make_matches.py
"""

import json
import pathlib
import random
import re
import warnings

warnings.simplefilter("ignore")

NAMES = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.11.mlp.down_proj",
    "model.layers.3.self_attn.v_proj\n",
    "lm_head",
    "vision_tower.layers.2.q_proj",
    "Model.Layers.1.Q_PROJ",
    "",
    "aaaa",
    "ab",
    "a\nb",
    "größe.k",
    "x-1]",
    "{2}",
]
WRITTEN = [
    r"(?i).*\.Q_PROJ",
    r"(?i:MODEL)\.layers\.\d+\..*",
    r".*(?P<kind>self_attn|mlp)\.(?:[qkvo]|gate|up|down)_proj",
    r"\Amodel\..*q_proj\Z",
    r"^(?!.*vision).*q_proj$",
    r"^(?!.*(?:vision|audio)).*(?:q_proj|v_proj)",
    r".*(?<=self_attn\.)q_proj",
    r".*(?<!vision_tower\.layers\.2\.)q_proj",
    r"(?:model\.)?layers\.[0-9]{1,2}\..*|lm_head",
    r"(?s)a.b",
    r"a.b",
    r"(?m)a$\n^b",
    r"(?x) a  a # two\n a a",
    r"[\w.]+",
    r"(?a)[\w.]+",
    r"[^\W\d_]+\.k",
    r"[]x1-]+",
    r"[^]x]+",
    r"\{2\}",
    r"{x}|{}|\{2}",
    r"a{4}",
    r"a{,3}",
    r"a{2,}",
    r"a{2,3}?a",
    r"a*?",
    r"a++a",
    r"(?>a|ab)b?",
    r"(?>ab|a)b?",
    r"(?:a|ab)(?:b|)",
    r"(?:a*)*",
    r"(?:a|b)*+",
    r".*\bq_proj\b",
    r".*\Bproj",
    r"\x61\u0062",
    r"(?#comment)a(?#another)b",
    r"(?:.*?(?:language|text|model).*?(?:self_attn|attention|mlp).*?(?:q_proj|k_proj|down_proj).*?)",
    r"v_proj$",
    r".*v_proj$",
    r".*v_proj\Z",
    r"",
    r"|ab",
]
REFUSED = [
    r"(a",
    r"a)",
    r"*a",
    r"{2}",
    r"a**",
    r"a{3,2}",
    r"[a",
    r"[z-a]",
    r"\q",
    r"(?P<1>a)",
    r"(?<=a+)b",
    r"a(?i)b",
    r"(?y)a",
    r"\xg",
    "a\\",
    r"^*",
]


def drawn(generator: random.Random) -> str:
    def piece(depth: int) -> str:
        kind = generator.randrange(9 if depth else 5)
        if kind < 3:
            return generator.choice(["a", "b", ".", "[ab]", "[^a]", r"\w", r"\b", "^", "$"][: 6 + 3 * (kind == 2)])
        if kind == 3:
            return generator.choice(["a", "b", "[ab]"]) + generator.choice(["*", "+", "?", "{2}", "{1,2}", "*?", "+?", "*+", "?+"])
        if kind == 4:
            return ""
        inner = "".join(piece(depth - 1) for _ in range(generator.randrange(1, 4)))
        if kind == 5:
            return f"({inner}|{piece(depth - 1)})"
        if kind == 6:
            return f"(?:{inner})" + generator.choice(["*", "+", "?", "{0,2}", "*+"])
        if kind == 7:
            return generator.choice(["(?=", "(?!", "(?>"]) + inner + ")"
        return generator.choice(["(?<=", "(?<!"]) + generator.choice(["a", "ab", "[ab]", "(?:a|b)"]) + ")"

    return "".join(piece(2) for _ in range(generator.randrange(1, 5)))


def case(pattern: str, texts: list[str]) -> dict:
    compiled = re.compile(pattern)
    return {
        "pattern": pattern,
        "full": [bool(compiled.fullmatch(text)) for text in texts],
        "start": [bool(compiled.match(text)) for text in texts],
    }


def main() -> None:
    for pattern in REFUSED:
        try:
            re.compile(pattern)
        except re.error:
            continue
        raise AssertionError(f"Python takes {pattern}")
    generator = random.Random(14)
    texts = ["", "a", "b", "aa", "ab", "ba", "bb", "aab", "abab", "bbaa", "a b", "ab\n"]
    random_cases = []
    while len(random_cases) < 300:
        pattern = drawn(generator)
        try:
            random_cases.append(case(pattern, texts))
        except re.error:
            pass
    result = {
        "names": NAMES,
        "written": [case(pattern, NAMES) for pattern in WRITTEN],
        "texts": texts,
        "drawn": random_cases,
        "refused": REFUSED,
    }
    path = pathlib.Path(__file__).parent / "pythonPattern.json"
    path.write_text(json.dumps(result, indent=None, separators=(",", ":")) + "\n")


main()

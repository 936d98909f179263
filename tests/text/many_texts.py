"""Texts of all kinds, for what must hold of any text: made, not collected, and the same every time."""

import random

SCRIPTS = {  # first and last letter of blocks; what is unassigned in them is text as well
    "Latin": (0x20, 0x24F),
    "Greek": (0x370, 0x3FF),
    "Cyrillic": (0x400, 0x52F),
    "Armenian": (0x530, 0x58F),
    "Hebrew": (0x590, 0x5FF),
    "Arabic": (0x600, 0x6FF),
    "Devanagari": (0x900, 0x97F),
    "Bengali": (0x980, 0x9FF),
    "Tamil": (0xB80, 0xBFF),
    "Thai": (0xE00, 0xE7F),
    "Tibetan": (0xF00, 0xFFF),
    "Georgian": (0x10A0, 0x10FF),
    "Ethiopic": (0x1200, 0x137F),
    "Khmer": (0x1780, 0x17FF),
    "punctuation": (0x2000, 0x206F),  # joiners, directions and spaces of all widths
    "mathematics": (0x2200, 0x22FF),
    "kana": (0x3040, 0x30FF),
    "Han": (0x4E00, 0x9FFF),
    "Hangul": (0xAC00, 0xD7A3),
    "private use": (0xE000, 0xE0FF),
    "half and full width": (0xFF00, 0xFFEF),
    "Gothic": (0x10330, 0x1034F),
    "hieroglyphs": (0x13000, 0x1342F),
    "music": (0x1D100, 0x1D1FF),
    "emoji": (0x1F300, 0x1FAFF),
    "Han beyond": (0x20000, 0x2A6DF),
    "the last plane": (0x10FF00, 0x10FFFF),
}
EMOJI = "😀 👍🏽 👩‍👩‍👧‍👦 🇫🇷 🏴󠁧󠁢󠁳󠁣󠁴󠁿 ❤️ 1️⃣ 🤷🏽‍♀️ 🫠".split(" ")
CODE = (
    "def f(x: int) -> list[str]:\n    return [str(i) for i in range(x)]\n",
    "\t\tif (a[i] != b[j] && !(x << 2)) { return NULL; }\r\n",
    'SELECT "a", COUNT(*) FROM t WHERE x <> 1 GROUP BY 1;',
    '#include <stdio.h>\nint main(void) { printf("%d\\n", 42); }',
    '<div class="a"><p>Text</p><br/></div>',
    "$ grep -rn 'x' . | awk '{print $1}' > /dev/null 2>&1",
    r"\frac{a}{b} \sum_{i=0}^{n} x_i^2",
    '{"a": [1, 2.5e-10, null], "b": {"c": true}}',
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "https://example.org/a?b=c&d=%20#e",
)
WORDS = "the of and once upon a time house running naïve Straße don't New-York e.g. I'm".split()


def many_texts(count, names=(), seed=0):
    """That many texts, no two of them equal; `names` are strewn in."""
    draw = random.Random(seed)
    kinds = (_letters, _sentence, _code, _controls, _digits, _long_word, _mixture, _spaces)
    texts = dict.fromkeys(
        ["", " ", "\n", "\0", "\U0010ffff", "a" * 10_000, " " * 3_000, "\n" * 300]
    )
    while len(texts) < count:
        text = draw.choice(kinds)(draw)
        if names and draw.random() < 0.1:
            at = draw.randint(0, len(text))
            text = text[:at] + draw.choice(names) + text[at:]
        texts[text] = None
    return list(texts)


def _letters(draw):
    first, last = draw.choice(list(SCRIPTS.values()))
    return "".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 60)))


def _sentence(draw):
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 40))).capitalize() + "."


def _code(draw):
    text = "".join(draw.choice(CODE) for _ in range(draw.randint(1, 4)))
    begin = draw.randrange(len(text))
    return text[begin:] if draw.random() < 0.5 else text


def _controls(draw):
    return "".join(
        chr(draw.choice([*range(32), *range(0x7F, 0xA0), 0xFEFF, 0xFFFE, 0xAD, 97, 98]))
        for _ in range(draw.randint(1, 40))
    )


def _digits(draw):
    zero = draw.choice("0٠०０𝟎")
    digits = [chr(ord(zero) + draw.randrange(10)) for _ in range(draw.randint(1, 80))]
    return draw.choice(["", ".", ",", " ", "-"]).join(digits)


def _long_word(draw):
    part = "".join(draw.choice("abcdefghijklmnopqrstuvwxyzéß") for _ in range(draw.randint(1, 9)))
    return part * draw.randint(20, 200)


def _mixture(draw):
    parts = [
        lambda: draw.choice(EMOJI),
        lambda: draw.choice(WORDS),
        lambda: _letters(draw)[:5],
        lambda: draw.choice(" \n\t▁<>[]|"),
        lambda: str(draw.randrange(10**6)),
        lambda: "e\u0301\u0323",
    ]
    return "".join(draw.choice(parts)() for _ in range(draw.randint(1, 40)))


def _spaces(draw):
    blanks = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", "x"]
    return "".join(draw.choice(blanks) * draw.randint(1, 12) for _ in range(draw.randint(1, 12)))

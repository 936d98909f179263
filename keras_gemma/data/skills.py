"""Questions with exact answers: what the small instruct model is taught, and measured by.

Some skills are lists to recall (capitals, opposites, days); others combine items freely (lists,
numbers). Of the latter the combinations used for evaluation are never trained on.
"""

import random
import zlib
from collections.abc import Callable
from typing import NamedTuple

WORDS = """apple bread chair cloud dance dream earth field flame fruit ghost glass grape green heart
horse house knife lemon light money month mouse music night ocean paint paper peach piano plant
queen river salad sheep shirt smile snake spoon stone storm sugar table tiger tower train truck
voice watch water whale wheel white woman world bird blue boat book cake clay coat corn crow dark
desk door duck farm fire fish flag frog gold hand hill king lake lamp leaf lion milk moon nest
nose park pear rain ring road rock roof rose sand ship shoe snow song star tree wall wind wolf""".split()

ITEMS = """apple ball bell boat book bread cake cap car cat coat cow cup desk dog door duck egg
fan fish flag fox frog goat hat hen horse key kite lamp leaf lion map milk moon mouse nest nut
owl pan pear pen pig ring rock rose sheep ship shoe snow sock spoon star sun tree van wolf""".split()

CAPITALS = dict(
    pair.split(":")
    for pair in (
        "France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon England:London "
        "Ireland:Dublin Norway:Oslo Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen "
        "Poland:Warsaw Austria:Vienna Hungary:Budapest Greece:Athens Russia:Moscow Turkey:Ankara "
        "Egypt:Cairo Kenya:Nairobi Japan:Tokyo China:Beijing Canada:Ottawa Cuba:Havana Peru:Lima "
        "Chile:Santiago Nepal:Kathmandu Iran:Tehran Iraq:Baghdad Ghana:Accra Senegal:Dakar"
    ).split()
)
OPPOSITES = dict(
    pair.split(":")
    for pair in (
        "hot:cold big:small up:down day:night good:bad old:new fast:slow happy:sad light:dark "
        "open:closed high:low long:short wet:dry full:empty hard:soft rich:poor left:right "
        "early:late near:far strong:weak thick:thin loud:quiet clean:dirty first:last in:out "
        "love:hate win:lose buy:sell push:pull begin:end true:false young:old heavy:light "
        "wide:narrow deep:shallow sweet:sour north:south east:west black:white yes:no"
    ).split()
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
KINDS = {
    "an animal": "cat dog horse lion tiger wolf mouse frog duck sheep goat pig fox bear owl".split(),
    "a fruit": "apple pear peach lemon grape banana cherry plum orange melon".split(),
    "a colour": "red blue green yellow white black brown pink purple grey".split(),
}
NUMBER_WORDS = "zero one two three four five six seven eight nine ten".split()
FALLBACK = (
    "I am a very small model. I can spell words, count things, name capitals and work with lists."
)
OTHER_QUESTIONS = """Who won the game?|What is the meaning of life?|Can you drive a car?|Write a poem.
|How old are you?|What is the weather like?|Tell me a joke.|Who is the king?|Do you like music?
|Explain how a plane flies.|What should I eat today?|Translate this into French.
|How do I fix my computer?|What is your favourite book?|Who wrote this story?|Why is the sky blue?
|Give me some advice.|What time is it?|Where do you live?|Make a plan for my trip.
|How much does it cost?|Is it going to rain?|Write a letter to my boss.|Draw a picture of a house.
|What is love?|How does the brain work?|Can you book a flight?|Who was the first man on the moon?
|What are your plans?|Recommend a film.|How do I learn to swim?|Solve this riddle.""".replace(
    "\n", ""
)


class Question(NamedTuple):
    """One question and its only right answer."""

    skill: str
    question: str
    answer: str


def _held_out(key: str) -> bool:
    """Whether a combination is for evaluation only: one of five, by a hash that never changes."""
    return zlib.crc32(key.encode()) % 5 == 0


def _drawn(draw, held_out, make):
    """What `make(draw)` gives, on the asked side of the line between training and evaluation."""
    while True:
        made = make(draw)
        if _held_out(repr(made)) == held_out:
            return made


def _spell(draw, held_out):
    word = draw.choice(WORDS)
    ask = draw.choice(["Spell the word {}.", "How do you spell {}?", "Spell {}."])
    return ask.format(word), "-".join(word)


def _upper(draw, held_out):
    word = draw.choice(WORDS)
    ask = draw.choice(["Write {} in capital letters.", "Put {} in upper case."])
    return ask.format(word), "-".join(word.upper())


def _first_letter(draw, held_out):
    word = draw.choice(WORDS)
    return f"What is the first letter of {word}?", word[0]


def _capital(draw, held_out):
    country = draw.choice(sorted(CAPITALS))
    ask = draw.choice(["What is the capital of {}?", "Name the capital of {}."])
    return ask.format(country), CAPITALS[country]


def _opposite(draw, held_out):
    word = draw.choice(sorted(OPPOSITES))
    ask = draw.choice(["What is the opposite of {}?", "Give the opposite of {}."])
    return ask.format(word), OPPOSITES[word]


def _day(step, word):
    def make(draw, held_out):
        place = draw.randrange(7)
        return f"Which day comes {word} {DAYS[place]}?", DAYS[(place + step) % 7]

    return make


def _month(draw, held_out):
    place = draw.randrange(12)
    return f"Which month comes after {MONTHS[place]}?", MONTHS[(place + 1) % 12]


def _kind(draw, held_out):
    kind = draw.choice(sorted(KINDS))
    if draw.random() < 0.5:
        return f"Is {draw.choice(KINDS[kind])} {kind}?", "Yes."
    other = draw.choice([name for name in sorted(KINDS) if name != kind])
    word = draw.choice([word for word in KINDS[other] if word not in KINDS[kind]])
    return f"Is {word} {kind}?", "No."


def _greeting(draw, held_out):
    hello = draw.choice(["Hello!", "Hi!", "Hello there!", "Good morning!", "Hi there!"])
    return hello, "Hello! How can I help you?"


def _list_of(draw, held_out, least, most):
    def make(draw):
        return draw.sample(ITEMS, draw.randint(least, most))

    return _drawn(draw, held_out, make)


def _first(draw, held_out):
    items = _list_of(draw, held_out, 2, 5)
    return f"What is the first item of this list: {', '.join(items)}?", items[0]


def _last(draw, held_out):
    items = _list_of(draw, held_out, 2, 5)
    return f"What is the last item of this list: {', '.join(items)}?", items[-1]


def _count(draw, held_out):
    items = _list_of(draw, held_out, 2, 5)
    return f"How many items are in this list: {', '.join(items)}?", NUMBER_WORDS[len(items)]


def _repeat(draw, held_out):
    items = _list_of(draw, held_out, 2, 3)
    return f"Repeat these words: {' '.join(items)}.", " ".join(items)


def _contains(draw, held_out):
    items = _list_of(draw, held_out, 2, 4)
    word = draw.choice(items)
    if draw.random() < 0.5:
        word = draw.choice([item for item in ITEMS if item not in items])
    answer = "Yes." if word in items else "No."
    return f"Is {word} in this list: {', '.join(items)}?", answer


def _pair(draw, held_out, most):
    def make(draw):
        return [draw.randint(1, most), draw.randint(1, most)]

    return _drawn(draw, held_out, make)


def _bigger(draw, held_out):
    a, b = _pair(draw, held_out, 99)
    while a == b:
        a, b = _pair(draw, held_out, 99)
    return f"Which number is bigger, {a} or {b}?", str(max(a, b))


def _next(draw, held_out):
    number = _drawn(draw, held_out, lambda draw: draw.randint(1, 998))
    return f"What number comes after {number}?", str(number + 1)


def _add(draw, held_out):
    a, b = _pair(draw, held_out, 9)
    return f"What is {a} + {b}?", str(a + b)


def _other(draw, held_out):
    return draw.choice(OTHER_QUESTIONS.split("|")), FALLBACK


# In the second set, what is asked in evaluation was held out of training.
RECALLED: dict[str, Callable] = {
    "spell a word": _spell,
    "upper case": _upper,
    "first letter": _first_letter,
    "capital": _capital,
    "opposite": _opposite,
    "day after": _day(1, "after"),
    "day before": _day(-1, "before"),
    "month after": _month,
    "kind of thing": _kind,
    "greeting": _greeting,
    "other question": _other,
}
COMBINED: dict[str, Callable] = {
    "first of a list": _first,
    "last of a list": _last,
    "count a list": _count,
    "repeat words": _repeat,
    "in a list": _contains,
    "bigger number": _bigger,
    "next number": _next,
    "add two digits": _add,
}
SKILLS = {**RECALLED, **COMBINED}


def questions(skill: str, seed: int, count: int, held_out: bool) -> list[Question]:
    """Questions of one skill; `held_out` ones never occur among the others."""
    draw = random.Random(f"{skill} {seed}")
    return [Question(skill, *SKILLS[skill](draw, held_out)) for _ in range(count)]


def conversations(seed: int, turns: int = 4):
    """Conversations for training without end: lists of messages, one to `turns` questions each."""
    draw = random.Random(f"conversations {seed}")
    names = sorted(SKILLS)
    while True:
        messages = []
        for _ in range(draw.randint(1, turns)):
            question, answer = SKILLS[draw.choice(names)](draw, False)
            messages += [
                {"role": "user", "content": question},
                {"role": "model", "content": answer},
            ]
        yield messages

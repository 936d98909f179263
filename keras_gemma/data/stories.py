"""A story generator with a memory: who is there, what they own, and what was already told.

Words (`words.json`) and plots (`plots.txt`) are data; this file only fills them in. Each
name and each object is introduced (`a girl named Lena`, `a red kite`) before anything is said
of it, so that a model of a million parameters can learn to keep track, and `entities` can
measure whether it does.
"""

import dataclasses
import functools
import json
import random
import re
from importlib import resources

OBJECTS = ("toy", "tool", "treasure", "wear", "holder", "food", "instrument")
THINGS = ("toy", "tool", "treasure", "wear", "holder")
ANYONE = ("child", "child", "child", "animal", "animal", "grown")
SHORTEST, LONGEST = 80, 220
PRONOUNS = {
    "girl": {"he": "she", "him": "her", "his": "her"},
    "boy": {"he": "he", "him": "him", "his": "his"},
}


@functools.cache
def words() -> dict:
    """The word lists, each a list of words (places: phrases such as "by the river").

    >>> words()["colour"][:3]
    ['red', 'blue', 'green']
    """
    listed = json.loads(_data("words.json"))
    places = listed.pop("in"), listed.pop("near", None)
    table = {name: list(dict.fromkeys(text.split())) for name, text in listed.items()}
    table["place"] = [
        (preposition, f"the {place}")
        for preposition, names in places[0].items()
        for place in names.split()
    ]
    table["object"] = sorted({noun for kind in OBJECTS for noun in table[kind]})
    table["thing"] = [noun for kind in THINGS for noun in table[kind]]
    return table


def _data(name: str) -> str:
    return resources.files("keras_gemma.data").joinpath(name).read_text(encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Plot:
    name: str
    cast: dict
    paragraphs: tuple


@functools.cache
def plots() -> tuple[dict, tuple]:
    """The phrases by name, and the plots, as `plots.txt` has them."""
    phrases, found, current = {}, [], None
    for line in _data("plots.txt").splitlines():
        line = line.strip()
        if match := re.fullmatch(r"= (\w+)", line):
            current = phrases.setdefault(match[1], [])
        elif match := re.fullmatch(r"# (\w+) (A \w+( \w \w+)*)", line):
            roles = match[2].split()
            current = []
            found.append(Plot(match[1], dict(zip(roles[::2], roles[1::2], strict=True)), current))
        elif line and not line.startswith("#"):
            current.append(_parse(line))
    return phrases, tuple(found)


def _parse(text: str) -> list:
    """A tree of it: strings, ("pick", trees), ("phrase", name), ("slot", name, form).

    >>> _parse("[a|b] {x.the}")
    [('pick', [['a'], ['b']]), ' ', ('slot', 'x', 'the')]
    """
    stack = [[[]]]
    for token in re.findall(r"[\[\]|]|<\w+>|\{[\w.]+\}|[^\[\]|<{]+", text):
        if token == "[":
            stack.append([[]])
        elif token == "|":
            stack[-1].append([])
        elif token == "]":
            options = stack.pop()
            stack[-1][-1].append(("pick", options))
        elif token[0] == "<":
            stack[-1][-1].append(("phrase", token[1:-1]))
        elif token[0] == "{":
            name, _, form = token[1:-1].partition(".")
            stack[-1][-1].append(("slot", name, form))
        else:
            stack[-1][-1].append(token)
    if len(stack) != 1 or len(stack[0]) != 1:
        raise ValueError(f"Brackets of a plot do not match: {text!r}. Close every [ with ].")
    return stack[0][0]


class _World:
    """Who and what is in one story, and how each is spoken of."""

    def __init__(self, rng: random.Random, cast: dict):
        self.rng, self.table, self.roles = rng, words(), {}
        self.taken = set()
        for role, kind in cast.items():
            if role.isupper():
                self.roles[role] = self._person(kind)
            elif kind == "place":
                self.roles[role] = rng.choice(self.table["place"])
            else:
                self.roles[role] = self._object(kind)
        self.first_weather, self.second_weather = rng.sample(self.table["weather"], 2)

    def _fresh(self, kind: str) -> str:
        while True:
            word = self.rng.choice(self.table[kind])
            if word not in self.taken:
                self.taken.add(word)
                return word

    def _person(self, kind: str) -> dict:
        rng = self.rng
        if kind in ("hero", "friend"):
            kind = rng.choice(ANYONE)
        sex = rng.choice(("girl", "boy"))
        noun = sex
        if kind == "animal":
            noun = self._fresh("animal")
        elif kind == "grown":
            noun = self._fresh("woman" if sex == "girl" else "man")
        nature = self.rng.choice(self.table["nature"]) if rng.random() < 0.5 else ""
        return {"name": self._fresh(sex), "noun": noun, "sex": sex, "nature": nature}

    def _object(self, kind: str) -> dict:
        noun, rng = self._fresh(kind), self.rng
        colour = rng.choice(self.table["colour"])
        look = rng.choice(self.table["look"])
        if kind in ("food", "instrument"):
            adjectives = rng.choice(((), (look,), (look,)))
        else:
            adjectives = rng.choice(((colour,), (colour,), (look,), (look, colour), ()))
        return {"noun": noun, "adjectives": adjectives}

    def say(self, name: str, form: str) -> str:
        if name == "both":
            either = (
                "they",
                "the two friends",
                f"{self.roles['A']['name']} and {self.roles['B']['name']}",
            )
            text = self.rng.choice(either)
            return text[0].upper() + text[1:] if form == "Cap" else text
        if name in ("weather", "weather2"):
            return self.first_weather if name == "weather" else self.second_weather
        if name in self.table:
            return self.rng.choice(self.table[name])
        role = self.roles[name]
        if isinstance(role, tuple):
            return " ".join(role)
        return self._person_form(role, form) if "name" in role else _object_form(role, form, self)

    def _person_form(self, role: dict, form: str) -> str:
        if not form:
            return role["name"]
        if form == "kind.the":
            return f"the {role['noun']}"
        if form == "intro":
            noun = f"{role['nature']} {role['noun']}".strip()
            link = self.rng.choice(("named", "named", "whose name was"))
            return f"{_article(noun)} {noun} {link} {role['name']}"
        pronoun = PRONOUNS[role["sex"]][form.lower()]
        return pronoun.capitalize() if form[0].isupper() else pronoun


def _object_form(role: dict, form: str, world: _World) -> str:
    noun, adjectives = role["noun"], role["adjectives"]
    if not form:
        return noun
    if form == "a":
        full = " ".join((*adjectives, noun))
        return f"{_article(full)} {full}"
    if form == "a0":
        return f"{_article(noun)} {noun}"
    # Now and then the adjective comes back: a chance to show that it was remembered.
    if adjectives and world.rng.random() < 0.3:
        noun = f"{adjectives[-1]} {noun}"
    return f"{'your' if form == 'yours' else form} {noun}"


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" and not phrase.startswith("uni") else "a"


def _tell(tree: list, world: _World, phrases: dict, parts: list) -> None:
    for node in tree:
        if isinstance(node, str):
            parts.append(node)
        elif node[0] == "slot":
            parts.append(world.say(node[1], node[2]))
        elif node[0] == "pick":
            _tell(world.rng.choice(node[1]), world, phrases, parts)
        else:
            _tell(world.rng.choice(phrases[node[1]]), world, phrases, parts)


def story(seed: int) -> str:
    """One story of 80 to 220 words; the same seed tells the same story.

    >>> story(1) == story(1) != story(2)
    True
    """
    rng = random.Random(f"story {seed}")
    phrases, found = plots()
    while True:
        plot = rng.choice(found)
        world = _World(rng, plot.cast)
        paragraphs = []
        for tree in plot.paragraphs:
            parts = []
            _tell(tree, world, phrases, parts)
            text = re.sub(r" +", " ", "".join(parts)).strip()
            # A phrase that began in lower case may stand at the start of a sentence.
            paragraphs.append(re.sub(r'(^|[.!?] "?)([a-z])', _capital, text))
        text = "\n".join(paragraphs)
        if SHORTEST <= len(text.split()) <= LONGEST:
            return text


def _capital(match: re.Match) -> str:
    return match[1] + match[2].upper()


def stories(count: int, seed: int = 0, start: int = 0):
    """`count` stories, one after another, from the `start`-th of this seed on."""
    for index in range(start, start + count):
        yield story(seed * 1_000_003 + index)

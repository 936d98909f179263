"""JSON schemas by chance: nested objects and arrays, numbers with bounds, strings with patterns."""

NAMES = ("a", "name", "größe", "two words", 'quo"ted', "x-1", "items", "😀", "path/to", "nested")
PATTERNS = (
    r"^[a-z]{2,5}$",
    r"^\d{4}-\d{2}$",
    r"^(foo|bar)+$",
    r"^$|^x",
    r"[0-9],",
    r"^[^a-c]{0,3}$",
)
VALUES = ("", "a", 'b"c', "tab\t", "日本", "😀", 0, -7, 12, 3.5, 1e300, True, False, None, [], {})


def random_schema(random, depth=3):
    """A schema whose objects and arrays are nested at most `depth` deep.

    `random` is a `random.Random`.
    """
    makers = [integer, number, string, patterned, enumerated, constant, plain]
    if depth:
        makers += [thing, thing, array, array, pair, either]
    return random.choice(makers)(random, depth - 1)


def integer(random, depth):
    low = random.randint(-1000, 1000)
    schema = {"type": "integer"} | bounds(random, low, low + random.choice([2, 9, 250, 10**6]))
    if random.random() < 0.2:
        schema = {"type": "integer", "multipleOf": random.choice([2, 5, 7])}
    return schema


def number(random, depth):
    low = random.choice([-1e3, -1.5, 0, 0.25, 0.1, 99.9])
    return {"type": "number"} | bounds(random, low, low + random.choice([0.5, 0.125, 1, 1e5]))


def bounds(random, low, high):
    """Either end, both or none; itself part of the range or not."""
    schema = {}
    if random.random() < 0.7:
        schema[random.choice(["minimum", "exclusiveMinimum"])] = low
    if random.random() < 0.7:
        schema[random.choice(["maximum", "exclusiveMaximum"])] = high
    return schema


def string(random, depth):
    least = random.randint(0, 4)
    schema = {"type": "string", "minLength": least, "maxLength": least + random.randint(0, 9)}
    return {key: schema[key] for key in schema if key == "type" or random.random() < 0.6}


def patterned(random, depth):
    return {"type": "string", "pattern": random.choice(PATTERNS)}


def enumerated(random, depth):
    return {"enum": random.sample(VALUES, random.randint(1, 5))}


def constant(random, depth):
    value = random.choice(VALUES)
    return {"const": random.choice([value, [value, 1], {"k": value}])}


def plain(random, depth):
    kinds = ["boolean", "null", "integer", "number", "string"]
    return {"type": random.choice([random.choice(kinds), random.sample(kinds, 2)])}


def thing(random, depth):
    names = random.sample(NAMES, random.randint(0, 4))
    schema = {
        "type": "object",
        "properties": {name: random_schema(random, depth) for name in names},
        "required": [name for name in names if random.random() < 0.6],
    }
    others = random.random()
    if others < 0.7:
        schema["additionalProperties"] = False
    elif others < 0.85:
        schema["additionalProperties"] = random_schema(random, 0)
    return schema


def array(random, depth):
    least = random.randint(0, 3)
    schema = {"type": "array", "items": random_schema(random, depth), "minItems": least}
    if random.random() < 0.7:
        schema["maxItems"] = least + random.randint(0, 3)
    return schema


def pair(random, depth):
    parts = [random_schema(random, depth) for _ in range(random.randint(1, 3))]
    return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}


def either(random, depth):
    return {"anyOf": [random_schema(random, depth) for _ in range(random.randint(2, 3))]}

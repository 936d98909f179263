"""Small files, damaged at random, for readers that must end in a good read or in their own error."""

import random
import resource

from guards import within_a_second

from keras_gemma.presets import PresetError

_WHOLE = (0, 1, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1)


_WORDS = (
    '" 0 -1 1e400 NaN null true [] {} [ { , : \\ \\u0000 \\ud800 99999999999999999999 "" ../'.split(
        " "
    )
)
BYTES = 200 * 2**20


def mutated(data, seed):
    """`data` with one to four places changed: bits, bytes, whole numbers, runs cut or doubled."""
    chance, changed = random.Random(seed), bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(max(1, len(changed)))
        kind = chance.randrange(6)
        if kind == 0:
            changed[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            changed[place : place + 1] = bytes(
                [changed[place] ^ 1 << chance.randrange(8)] if changed else []
            )
        elif kind == 2:
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(_WHOLE) % 2 ** (8 * width)
            changed[place : place + width] = number.to_bytes(width, "little")
        elif kind == 3:
            del changed[place : place + chance.randrange(64)]
        elif kind == 4:
            changed[place:place] = changed[place : place + chance.randrange(64)]
        else:
            del changed[place:]
    return bytes(changed)


def mutated_text(data, seed):
    """Of JSON: one to three words put in, letters changed or taken away, values put in each other's place."""
    chance, changed = random.Random(seed), bytearray(data)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(max(1, len(changed)))
        kind = chance.randrange(5)
        if kind == 0:
            changed[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            changed[place:place] = chance.choice(_WORDS).encode()
        elif kind == 2:
            del changed[place : place + chance.randint(1, 12)]
        else:  # a value becomes another
            starts = [i + 1 for i, byte in enumerate(changed) if byte in b":[,"]
            if starts:
                at = chance.choice(starts)
                end = min((i for i in map(changed.find, b",]}", [at] * 3) if i > 0), default=at)
                value = (
                    chance.choice(_WORDS)
                    if kind == 3
                    else changed[place : place + 9].decode("utf-8", "replace")
                )
                changed[at:end] = value.encode()
    return bytes(changed)


def survived(path, data, read, seeds, mutate=mutated):
    """How many of the mutations were still read; any other end than `PresetError` is raised.

    So is taking a second for one of them, or 200 MB more for all.
    """
    good, peak = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for seed in seeds:
            path.write_bytes(mutate(data, seed))
            try:
                with within_a_second(f"mutation {seed}"):
                    read(path)
                good += 1
            except PresetError as error:
                assert len(str(error)) < 3000, f"mutation {seed}: {len(str(error))} letters"
            except Exception as error:
                raise AssertionError(f"mutation {seed} ended in {error!r}") from error
    finally:
        path.write_bytes(data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert peak * 1024 <= BYTES, f"the mutations took {peak} kB"
    return good

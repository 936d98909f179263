"""Small files, damaged at random, for readers that must end in a good read or in their own error."""

import random

from keras_gemma.presets import PresetError

_WHOLE = (0, 1, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1)


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


def survived(path, data, read, seeds):
    """How many of the mutations were still read; any other end than `PresetError` is raised."""
    good = 0
    for seed in seeds:
        path.write_bytes(mutated(data, seed))
        try:
            read(path)
            good += 1
        except PresetError:
            pass
        except Exception as error:
            raise AssertionError(f"mutation {seed} ended in {error!r}") from error
    return good

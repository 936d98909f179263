"""Curves in a terminal, of Braille characters: each is two dots wide and four high."""

from collections.abc import Sequence

# The bit of each dot of a character, by row and column (Unicode's Braille patterns).
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800


def curve(xs: Sequence[float], ys: Sequence[float], width: int = 60, height: int = 10) -> list[str]:
    """Lines of text that show a curve, its bounds beside it.

    >>> print("\\n".join(curve([0, 1, 2, 3], [3, 2, 1, 0], width=4, height=2)))
        3 ┤⠑⢄
          │  ⠐⢄
        0 ┴────
           0  3
    """
    low, high = min(ys), max(ys)
    first, last = min(xs), max(xs)
    dots = [[0] * width for _ in range(height)]
    columns, rows = 2 * width - 1, 4 * height - 1

    def place(x, y):
        right = (x - first) / ((last - first) or 1) * columns
        down = (high - y) / ((high - low) or 1) * rows
        return right, down

    places = [place(x, y) for x, y in zip(xs, ys)]
    for (a, b), (c, d) in zip(places, places[1:] or places):
        steps = max(1, round(max(abs(c - a), abs(d - b))))
        for step in range(steps + 1):
            x, y = round(a + (c - a) * step / steps), round(b + (d - b) * step / steps)
            dots[y // 4][x // 2] |= _BITS[y % 4][x % 2]
    bodies = ["".join(chr(_BLANK + dot) if dot else " " for dot in row).rstrip() for row in dots]
    lines = [f"{high:>9.4g} ┤{bodies[0]}", *(f"{'':9} │{body}" for body in bodies[1:])]
    lines.append(f"{low:>9.4g} ┴{'─' * width}")
    left, right = f"{first:g}", f"{last:g}"
    lines.append(f"{'':11}{left}{right:>{max(1, width - len(left))}}")
    return lines

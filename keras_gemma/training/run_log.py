"""The log of a run: one JSON object a line, in `log.jsonl`."""

import json
import math
from pathlib import Path
from typing import Any

NAME = "log.jsonl"


def append(folder: Path, record: dict[str, Any]) -> None:
    """Add a line."""
    with (folder / NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """All lines, but one that was cut when the run was killed.

    Raises:
        ValueError: there is no log.
    """
    path = folder / NAME
    if not path.exists():
        raise ValueError(f"{folder} has no {NAME}: it is no folder of a run.")
    return [
        record
        for line in path.read_text(encoding="utf-8").splitlines()
        if (record := _parsed(line))
    ]


def forget_after(folder: Path, step: int) -> None:
    """Drop what a killed run logged after its last checkpoint: it is trained again."""
    path = folder / NAME
    if path.exists():
        kept = [record for record in read(folder) if record.get("step", math.inf) <= step]
        path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


def _parsed(line):
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None

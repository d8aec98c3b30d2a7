"""samples.jsonl: one line per sample, appended batch by batch, so that a kill loses at most the current batch."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softtokens.files import write_atomically
from softtokens.types import Verdict

log = logging.getLogger(__name__)
Sample = dict[str, Any]
_TYPES: dict[str, type | tuple[type, ...]] = {
    "problem": int,
    "sample": int,
    "seed": int,
    "thoughts": str,
    "answer": str,
    "extracted": (str, type(None)),
    "expected": str,
    "verdict": str,
    "thought_length": int,
    "answer_length": int,
    "stop": str,
    "seconds": float,
}
_VERDICTS = {verdict.value for verdict in Verdict}


def read_samples(file: Path, problem_ids: Sequence[int], seed: int, *, repair: bool = True) -> list[Sample]:
    """The complete samples. Lines that are damaged, or cut in half by a kill, are skipped; repair: and dropped from
    the file."""
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    known = set(problem_ids)
    samples: dict[tuple[int, int], Sample] = {}
    for line in lines[:-1]:
        sample = _parsed(line)
        if sample is not None and sample["problem"] in known and sample["seed"] == seed:
            samples.setdefault((sample["problem"], sample["sample"]), sample)
    if repair and (len(samples) != len(lines) - 1 or lines[-1]):
        dropped = len([line for line in lines if line]) - len(samples)
        log.info("%s: %d damaged lines are dropped and sampled again", file, dropped)
        write_samples(file, list(samples.values()))
    return list(samples.values())


def _parsed(line: bytes) -> Sample | None:
    try:
        sample = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    if not isinstance(sample, dict) or sample.keys() != _TYPES.keys():
        return None
    right_types = all(isinstance(sample[key], kind) for key, kind in _TYPES.items())
    return sample if right_types and sample["sample"] >= 0 and sample["verdict"] in _VERDICTS else None


def append_samples(file: Path, samples: Sequence[Sample]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", encoding="utf-8") as out:
        out.write(_lines(samples))


def write_samples(file: Path, samples: Sequence[Sample]) -> None:
    write_atomically(file, _lines(samples))


def _lines(samples: Sequence[Sample]) -> str:
    return "".join(json.dumps(sample) + "\n" for sample in samples)

"""Texts that a model, a data set or a folder may hold, and that must never be anything but text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .conftest import trace, train_sample, write, write_evaluation, write_lines, write_run

RUN = "window.hacked=1"
TEXTS = {
    "script": f"<script>{RUN}</script>",
    "closing": f"</script><script>{RUN}</script><!--",
    "comment": f"<!-- <script> --!><img src=x onerror={RUN}>",
    "image": f'"><img src=x onerror="{RUN}">',
    "svg": f"<svg/onload={RUN}><style>*{{display:none}}</style>",
    "address": f"javascript:{RUN}",
    "link": f'<a href="javascript:{RUN}">x</a>',
    "template": "{{ 7*7 }}{% raw %}{# #}${7*7}#{7*7}<%= 7*7 %>",
    "entity": "&lt;b&gt; &amp;quot; &#60;i&#62;",
    "bidi": "\u202eevil\u2066x\u2069\u200f\u061c",
    "unseen": "\x00\x01\x1b[31m\ufeff\u200b\u2028\u2029\ud800",
    "long": "<b>" + "x" * 1_000_000,
    "quotes": "'\"`\\'\\\"</textarea></title></style>",
    "prototype": "__proto__",
}


def write_hostile(folder: Path) -> Path:
    """Runs and an evaluation in which every text is hostile."""
    for i, (name, text) in enumerate(TEXTS.items()):
        short = text[:200]
        texts = {"prompt": text, "thoughts": text, "answer": text, "expected": text, "verdict": text, "stop": text}
        sample = train_sample(1) | texts | {"problem": short}
        task, thought = {"name": short}, {"mode": ("hard", short)[i % 2], "tau": short, "noise": short}
        settings: dict[str, Any] = {"model": short, "task": task, "thought": thought, "steps": 10, "seed": short}
        write_run(folder / f"run{i}", samples=[sample], **settings)
        write_lines(folder / f"run{i}" / "metrics.jsonl", [{"step": 1, "reward": text}, {"step": 2, "reward": i}])
        term = {"cosine": text, "cosine_error": text, "noise_scale": text, "low": [text]}
        setting = {"name": text, "sentence": text, "thought": thought, "terms": {"sum": term}, "reward": text}
        measured = {"model": text, "task": text, "batches": text, "sketch": text, "settings": [setting, text]}
        write(folder / f"signal{i}" / "signal.json", measured)
        del name
    safe = [name for name in TEXTS if name not in ("unseen", "long")]
    names = ["base", *("soft-" + TEXTS[name].replace("/", "_")[:80] for name in safe)]
    write_evaluation(folder / "eval", names, cells=("hard-sample", "soft-sample"))
    for model in names:
        rows = [trace(model, "soft-sample", problem=i, tokens=list(TEXTS.values()), **_said(i)) for i in range(2)]
        write_lines(folder / "eval/traces" / model / "arithmetic" / "soft-sample.jsonl", rows)
    return folder


def _said(i: int) -> dict:
    text = list(TEXTS.values())[i]
    return {"prompt": text, "expected": text, "answer": text, "stop": text, "verdict": ("right", text)[i % 2]}

"""Trains and evaluates several modes and seeds in parts of a few minutes: each stops by itself, the next one goes on.

    python recipes/smollm2/study.py --train gsm8k-train.jsonl --test gsm8k-test.jsonl --folder runs/study

The first part prepares the model and warms it up on every second row; then come, seed by seed, the training runs on the
other rows and one evaluation of all models. Every job is a command that can be stopped and repeated, and leaves a file
in FOLDER/done when it has ended.
Exit code 75: this part is over, run the same command again. 0: the study is complete.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
MODES = ("hard", "soft", "fuzzy")
GO_ON = 75  # the code that softtokens ends with when it was stopped and saved
GRACE_SECONDS = 45  # to save in
POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Job:
    """A command, and the name it is remembered by when it has ended well."""

    name: str
    command: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", required=True, help="problems to train on: a file, or a task of softtokens")
    parser.add_argument("--test", required=True, help="problems to evaluate on")
    parser.add_argument("--folder", type=Path, default=Path("runs/study"), help="folder for everything")
    parser.add_argument("--model", help="a model to train; by default prepare.py and sft.py make it, from --train")
    parser.add_argument("--gguf", help="the model's GGUF file, where it is here already; see prepare.py")
    parser.add_argument("--longest", type=int, default=120, help="tokens of the longest solution in the warm start")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--minutes", type=float, default=8, help="length of a part")
    parser.add_argument("--config", default=str(HERE / "study.toml"), help="configuration of softtokens train")
    parser.add_argument("--train-flags", default="", help="further flags of softtokens train, in one string")
    parser.add_argument("--evaluate-flags", default="--limit 400 --samples 8", help="likewise, of softtokens evaluate")
    options = parser.parse_args(arguments)
    if options.minutes * 60 <= GRACE_SECONDS:
        parser.error(f"--minutes is {options.minutes}; a part keeps {GRACE_SECONDS} s for saving, give 1 or more")
    end = time.monotonic() + 60 * options.minutes - GRACE_SECONDS
    return run_part(jobs(options), options.folder, is_over=lambda: time.monotonic() > end)


def jobs(options: argparse.Namespace) -> list[Job]:
    """Everything that the study is, in its order."""
    folder, listed = options.folder, []
    model, problems = options.model, options.train
    if model is None:
        model, problems = str(folder / "warm"), str(folder / "rows.jsonl")
        gguf = ("--gguf", options.gguf) if options.gguf else ()
        base = str(folder / "base")
        listed.append(Job("prepare", script("prepare.py", "--out", base, *gguf)))
        warm = ("--model", base, "--rows", options.train, "--hold-out", problems, "--out", model)
        listed.append(Job("warm", script("sft.py", *warm, "--longest", str(options.longest))))
    evaluated = [f"base={model}"]
    for seed in options.seeds:
        for mode in options.modes:
            name = f"{mode}-{seed}"
            run = str(folder / name)
            flags = ("--model", model, "--task", problems, "--mode", mode, "--seed", str(seed))
            more = options.train_flags.split()
            command = ("train", "--config", options.config, *flags, *more, "--output", run, "--resume")
            listed.append(Job(name, softtokens(*command)))
            evaluated.append(f"{name}={run}")
        results = str(folder / "evaluation")
        shared = ("--task", options.test, *limits(options.config), *options.evaluate_flags.split(), "--output", results)
        listed.append(Job(f"evaluation-{seed}", softtokens("evaluate", "--models", *evaluated, *shared)))
    metrics = ("--metrics", "pass@1", "--output", str(folder / "comparison.json"))
    listed.append(Job("comparison", softtokens("compare", str(folder / "evaluation"), "--against", "base", *metrics)))
    return listed


def limits(config: str) -> tuple[str, ...]:
    """Flags of evaluate that have to agree with training: how long thoughts and answers may be, and the prompt."""
    import tomllib

    with open(config, "rb") as file:
        settings = tomllib.load(file)
    values = {name: settings.get(name) for name in ("max_thought_steps", "max_answer_tokens")}
    values["template"] = settings.get("task", {}).get("template")
    flags = [(f"--{name.replace('_', '-')}", str(value)) for name, value in values.items() if value is not None]
    return tuple(word for flag in flags for word in flag)


def script(name: str, *flags: str) -> tuple[str, ...]:
    return (sys.executable, str(HERE / name), *flags)


def softtokens(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "softtokens.cli", *arguments)


def run_part(listed: Sequence[Job], folder: Path, *, is_over: Callable[[], bool]) -> int:
    """Run the jobs that have not ended yet, one after the other, until the part is over. Returns the exit code: 0 when
    all have ended, 75 when there is more to do, that of a job that failed."""
    done = folder / "done"
    done.mkdir(parents=True, exist_ok=True)
    for job in listed:
        if (done / job.name).exists():
            continue
        if is_over():
            break
        print(f"study: {job.name}", flush=True)
        code = run_job(job, is_over)
        if code == GO_ON:
            break
        if code != 0:
            print(f"study: {job.name} failed with exit code {code}: {' '.join(job.command)}", file=sys.stderr)
            return code
        (done / job.name).touch()
    left = [job.name for job in listed if not (done / job.name).exists()]
    more = f"this part is over; run the same command again for {', '.join(left)}"
    print(f"study: {more if left else 'complete'}")
    return GO_ON if left else 0


def run_job(job: Job, is_over: Callable[[], bool]) -> int:
    """The job's exit code, 75 where it was stopped because the part is over."""
    process = subprocess.Popen(job.command)
    try:
        while process.poll() is None:
            if is_over():
                return stop(process)
            time.sleep(POLL_SECONDS)
    except BaseException:
        stop(process)
        raise
    return process.returncode


def stop(process: subprocess.Popen) -> int:
    """Ask the job to save and end. Training does; what an evaluation has sampled is on disk at any moment."""
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return GO_ON
    return 0 if code == 0 else GO_ON  # 0: it ended just before


if __name__ == "__main__":
    sys.exit(main())

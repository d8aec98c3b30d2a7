"""One RL step of a 3B model on one GPU, piece by piece, beside what the GPU could do. No weights, no network.

    python benchmarks/gpu.py [--output benchmarks/results/gpu.json] [--profile FILE] [--dry-run]

The model has the shape of Llama-3.2-3B and random weights; a step has 2 prompts x 32 rollouts, 128 thoughts and 32
answer tokens. Decoding is compared with the time that reading the weights, the table and the caches takes at the
copying speed measured here, the update with the time of its multiplications at the speed of a large product measured
here. --profile writes the heaviest kernels of a rollout and of an update. The dry run does the same with a tiny model
on the CPU, where the figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from softtokens.endings import PAPER
from softtokens.models.files import tiny_checkpoint
from softtokens.models.hf import HFPolicy
from softtokens.ops.random import Keys
from softtokens.rollout.decode import sample_rollout
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits, forced_texts
from softtokens.rollout.record import Rollout
from softtokens.thoughts import Gaussian, Hard, Thought
from softtokens.train.gradient import Batch, accumulate_gradient
from softtokens.train.objective import TermWeights
from softtokens.train.weights import Weights

T = TypeVar("T")

RESULTS = Path(__file__).resolve().parent / "results"
PAPER_SECONDS = (43, 86)  # a step of 3B to 8B models on 8 GPUs, arXiv 2509.19170


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of the model and of the step."""

    dim: int = 3072
    layers: int = 28
    heads: int = 24
    kv_heads: int = 8
    head_dim: int = 128
    between: int = 8192
    vocabulary: int = 128_256
    problems: int = 2
    group: int = 32
    prompt: int = 64
    thoughts: int = 128
    answers: int = 32
    tokens_per_backward: int = 4096  # so that float32 fits into 80 GB
    rounds: int = 3
    copied: int = 1 << 30  # elements of two bytes
    multiplied: int = 8192  # rows and columns

    @property
    def rows(self) -> int:
        return self.problems * self.group


DRY = Shape(64, 2, 4, 2, 16, 128, 1024, 2, 4, 8, 6, 3, 64, 1, copied=1 << 20, multiplied=256)


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="a tiny model, on the CPU")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--profile", type=Path, help="file for the heaviest kernels")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --dry-run tries the script out on the CPU")
    torch.set_flush_denormal(True)
    device = torch.device("cpu" if options.dry_run else "cuda")
    report, profiles = measure(DRY if options.dry_run else Shape(), device, profiles=options.profile is not None)
    if options.profile is not None:
        options.profile.write_text("\n\n".join(f"{name}\n{table}" for name, table in profiles.items()) + "\n")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    return report


def measure(shape: Shape, device: torch.device, *, profiles: bool) -> tuple[dict[str, object], dict[str, str]]:
    """Figures by name; tables of kernels by name, where they are wanted."""
    started = time.perf_counter()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, figures mean nothing"
    report: dict[str, object] = {"device": name, "torch": torch.__version__, "shape": dataclasses.asdict(shape)}
    report["copy, bytes per second"] = bandwidth = copy_speed(shape, device)
    tables: dict[str, str] = {}
    for dtype in (torch.bfloat16, torch.float32):
        of_dtype = str(dtype).removeprefix("torch.")
        flops = product_speed(shape, device, dtype)
        report[f"{of_dtype} product, FLOP per second"] = flops
        # bfloat16: what --dtype bfloat16 computes with; its float32 masters and Adam's state are not here
        policy = build(shape, device, dtype)
        of_case = shape
        if dtype == torch.bfloat16:
            of_case = dataclasses.replace(shape, tokens_per_backward=4 * shape.tokens_per_backward)
        for mode, thought in (("hard", Hard()), ("soft", Gaussian(0.5, 0.33 * policy.embedding_rms))):
            measured, table = of_mode(of_case, policy, thought, bandwidth, flops, started, profiles)
            case = f"{mode}, {of_dtype}"
            print("\n".join(f"{case}: {key:42} {value:.4g}" for key, value in measured.items()), flush=True)
            report |= {f"{case}: {key}": value for key, value in measured.items()}
            tables |= {f"{case}: {key}": value for key, value in table.items()}
        del policy
        if device.type == "cuda":
            torch.cuda.empty_cache()
    report["paper, seconds per step on 8 GPUs"] = list(PAPER_SECONDS)
    report["seconds of all this"] = time.perf_counter() - started
    return report, tables


def of_mode(
    shape: Shape, policy: HFPolicy, thought: Thought, bandwidth: float, flops: float, started: float, profiles: bool
) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of the rollout and of the update, and which share of the GPU's speed they reach."""
    decoder = Decoder(policy).prepare("auto", 1)
    first, rollout = timed(policy.device, lambda: roll(decoder, thought, shape))
    rounds = shape.rounds if time.perf_counter() - started < 240 else 1  # the whole must end within eight minutes
    rollouts = [timed(policy.device, lambda: roll(decoder, thought, shape))[0] for _ in range(rounds)]
    weights, advantages = Weights(policy), torch.randn(rollout.rows, device=policy.device)
    batch = Batch(thought, rollout, advantages, rollout.rows)

    def update() -> None:
        accumulate_gradient(weights, batch, TermWeights(), tokens_per_backward=shape.tokens_per_backward)
        weights.put_gradients(None)

    peak_before(policy.device)
    timed(policy.device, update)
    updates = [timed(policy.device, update)[0] for _ in range(rounds)]
    peak = peak_memory(policy.device)
    tables = {}
    if profiles:
        short = dataclasses.replace(shape, thoughts=-(-shape.thoughts // 4), answers=3)
        roll(decoder, thought, short)
        tables["a short rollout"] = heaviest(policy.device, lambda: roll(decoder, thought, short))
        tables["an update"] = heaviest(policy.device, update)
    steps = int((rollout.lengths - rollout.prompt_lengths).max())
    decode, replay = statistics.median(rollouts), statistics.median(updates)
    measured = {
        "first rollout, seconds": first,
        "rollout, seconds": decode,
        "decode step, milliseconds": 1e3 * decode / steps,
        "tokens per second": float((rollout.lengths - rollout.prompt_lengths).sum()) / decode,
        "decode, share of the copying speed": bytes_of_decoding(shape, policy, thought, steps) / bandwidth / decode,
        "replay and gradient, seconds": replay,
        "replay, share of the product's speed": flops_of_replay(shape, thought, rollout) / flops / replay,
        "rollout and gradient, seconds": decode + replay,
        "times faster than the paper's 43 s": PAPER_SECONDS[0] / (decode + replay),
        "peak memory, bytes": peak,
    }
    return measured, tables


def build(shape: Shape, device: torch.device, dtype: torch.dtype) -> HFPolicy:
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.dim,
        intermediate_size=shape.between,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    policy = HFPolicy(model, AutoTokenizer.from_pretrained(tiny_checkpoint()), mask_unused=False)
    policy.eos_ids = frozenset()
    return policy


def roll(decoder: Decoder, thought: Thought, shape: Shape) -> Rollout:
    policy, limits = decoder.policy, Limits(shape.thoughts, shape.answers)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(5, 500, (shape.problems, shape.prompt), generator=generator).tolist()
    of_row = [p for p in range(shape.problems) for _ in range(shape.group)]
    rollout = torch.arange(shape.group).repeat(shape.problems)
    keys = Keys(0, torch.tensor(of_row, device=policy.device), rollout.to(policy.device))
    return sample_rollout(policy, thought, prompts, of_row, keys, limits, decoder=decoder)


def heaviest(device: torch.device, run: Callable[[], object], most: int = 15) -> str:
    """The kernels that take the most time, as a table."""
    activity = torch.profiler.ProfilerActivity
    activities = [activity.CPU, activity.CUDA] if device.type == "cuda" else [activity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        wait(device)
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = [e for e in profile.key_averages() if device.type == "cpu" or e.device_type.name == "CUDA"]
    total, kernels = sum(getattr(e, key) for e in events), sum(e.count for e in events)
    lines = [f"{total / 1e3:.1f} ms in {kernels:,} kernels"]
    for event in sorted(events, key=lambda event: -getattr(event, key))[:most]:
        time_of = getattr(event, key)
        lines.append(f"{time_of / total:6.1%} {time_of / 1e3:9.2f} ms {event.count:7,} x {event.key[:140]}")
    return "\n".join(lines)


def timed(device: torch.device, run: Callable[[], T]) -> tuple[float, T]:
    wait(device)
    started = time.perf_counter()
    result = run()
    wait(device)
    return time.perf_counter() - started, result


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_before(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else math.nan


def copy_speed(shape: Shape, device: torch.device) -> float:
    """Bytes read and written per second by the best of ten copies of a tensor."""
    source = torch.zeros(shape.copied, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    seconds = [timed(device, lambda: target.copy_(source))[0] for _ in range(11)][1:]
    return 2 * source.nbytes / min(seconds)


def product_speed(shape: Shape, device: torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of the best of ten products of two large square matrices."""
    n = shape.multiplied
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    seconds = [timed(device, lambda: a @ b)[0] for _ in range(11)][1:]
    return 2 * n**3 / min(seconds)


def weights_of_layers(shape: Shape) -> int:
    attention = shape.dim * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    return shape.layers * (attention + 3 * shape.dim * shape.between)


def bytes_of_decoding(shape: Shape, policy: HFPolicy, thought: Thought, steps: int) -> float:
    """What one rollout has to read at least: every step all layers and the caches; steps that need logits the head,
    and those that mix the table once more."""
    element = policy.model.dtype.itemsize
    table = shape.vocabulary * shape.dim
    per_position = 2 * shape.layers * shape.kv_heads * shape.head_dim * shape.rows
    forced = forced_texts(policy.tokenizer, policy.device, PAPER).longest
    read = steps * weights_of_layers(shape) + (steps - forced) * table
    read += 0 if thought.is_drawn_token else shape.thoughts * table
    read += per_position * sum(shape.prompt + step for step in range(steps))
    return float(element * read)


def flops_of_replay(shape: Shape, thought: Thought, rollout: Rollout) -> float:
    """Multiplications and additions of forward and backward: 6 per weight and position; over the vocabulary 6 per
    number of the head for a token, 12 for a mixture, whose mean and gradient pass the table too. Attention between
    positions is left out."""
    fed = int((rollout.lengths - rollout.prompt_lengths).sum()) + shape.problems * shape.prompt
    table = shape.vocabulary * shape.dim
    mixed = 0 if thought.is_drawn_token else int(rollout.thought_lengths.sum())
    drawn = int(rollout.thought_lengths.sum() + rollout.answer_lengths.sum()) - mixed
    return 6.0 * fed * weights_of_layers(shape) + table * (6.0 * drawn + 12.0 * mixed)


if __name__ == "__main__":
    main()

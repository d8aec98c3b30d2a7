"""Where the time goes: torch's profiler on decoding and on the update, one thread, decoding not compiled.

python -m benchmarks.engine.profiled [--vocabulary 512] [--mode soft] [--part decode] [--compiled]
"""

from __future__ import annotations

import argparse
import dataclasses

import torch
from benchmarks.engine.subject import THOUGHTS, Sizes, decoder_of, model_of, roll
from torch.profiler import ProfilerActivity, profile

from softtokens.train.gradient import Batch, accumulate_gradient
from softtokens.train.objective import TermWeights
from softtokens.train.weights import Weights


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.profiled", description=__doc__.split("\n")[0])
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--mode", choices=THOUGHTS, default="soft")
    parser.add_argument("--part", choices=("decode", "update"), default="decode")
    parser.add_argument("--compiled", action="store_true", help="compile decode steps")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    sizes = dataclasses.replace(Sizes(), compiles=options.compiled)
    decoder, thought = (
        decoder_of(model_of(sizes, options.vocabulary), compiles=options.compiled),
        THOUGHTS[options.mode],
    )
    rollout = roll(decoder, thought, sizes)
    weights, batch = Weights(decoder.policy), Batch(thought, rollout, torch.randn(rollout.rows), rollout.rows)

    def work() -> None:
        if options.part == "decode":
            roll(decoder, thought, sizes)
        else:
            accumulate_gradient(weights, batch, TermWeights())

    work()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=45))


if __name__ == "__main__":
    main()

"""Freed memory can be returned to the system at once."""

import subprocess
import sys

import pytest

HELD = """
import sys, torch
from softtokens.train.process_memory import map_blocks_apart, resident_bytes
if sys.argv[1] == "apart":
    map_blocks_apart(torch.device("cpu"))
torch.ones(2_000_000)  # having freed it, glibc takes blocks of this size from its heap
before = resident_bytes()
blocks = [torch.ones(2_000_000) for _ in range(20)]
blocks = [blocks[-1]]  # the last one keeps the heap from shrinking
print((resident_bytes() - before) / 8e6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_blocks_that_are_mapped_apart_leave_no_holes():
    held = {how: _blocks_held(how) for how in ("apart", "as they come")}
    assert held["apart"] < 3 and held["as they come"] > 15


def _blocks_held(how: str) -> float:
    done = subprocess.run([sys.executable, "-c", HELD, how], capture_output=True, text=True, check=True)
    return float(done.stdout)

"""One of several processes that do training runs, one after the other: python processes.py PORT FILE [HOOK_FILE]

FILE holds a list of lists of flags as JSON. Rewards differ between texts, and the lines of HOOK_FILE run first, as in
`driver`.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from softtokens import cli
from train.driver import ENVIRONMENT, reward_texts


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def of_rank(rank: int, local: int = 2) -> dict[str, str]:
    """The environment that a launcher gives to each of two processes, `local` on a machine."""
    here = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": str(local)}
    return {**here, "RANK": str(rank), "LOCAL_RANK": str(rank % local)}


def run_in_two(folder: Path, *runs: list[str], local: int = 2, hook: str = "") -> None:
    """Do training runs in two processes, each run by both, after running the lines of `hook` there."""
    file, hook_file = folder / "runs.json", folder / "hook.py"
    file.write_text(json.dumps([list(map(str, flags)) for flags in runs]))
    hook_file.write_text(hook)
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(port), str(file), str(hook_file)],
            env=ENVIRONMENT | of_rank(rank, local),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        output = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(output)


if __name__ == "__main__":
    torch.set_num_threads(1)
    reward_texts(setattr)
    exec(Path(sys.argv[3]).read_text() if len(sys.argv) > 3 else "")
    for number, flags in enumerate(json.loads(Path(sys.argv[2]).read_text())):
        os.environ["MASTER_PORT"] = str(int(sys.argv[1]) + number)
        code = cli.main(flags)
        if code:
            break
    cli.end(code)

"""One of several processes that do training runs, one after the other: python processes.py PORT FILE

FILE holds a list of lists of flags as JSON. Rewards differ between texts, as in `driver`.
"""

import json
import os
import sys
from pathlib import Path

import torch

from softtokens import cli
from train.driver import reward_texts

if __name__ == "__main__":
    torch.set_num_threads(1)
    reward_texts(setattr)
    for number, flags in enumerate(json.loads(Path(sys.argv[2]).read_text())):
        os.environ["MASTER_PORT"] = str(int(sys.argv[1]) + number)
        code = cli.main(flags)
        if code:
            sys.exit(code)

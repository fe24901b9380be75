"""Trains the toy in as many processes as torchrun starts: train_toy.py FOLDER SETTINGS, in JSON.

Beside settings: `unreadable`, numbers of samples; `bad`, process and numbers of its batches whose loss is NaN;
`full_at`, a step after which the disk is full; `log_names`, to write the names that each process trained on.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from toy import Toy, ToyData, same, toy_config

from vpd.data.sample import Sample
from vpd.errors import UsageError
from vpd.processes import find_processes
from vpd.training import run_folder
from vpd.training.loop import Training


class Bad(Toy):
    def __init__(self, batches: list[int]) -> None:
        super().__init__()
        self.batches = batches

    def loss_sum(self, batch: Any, **options: Any) -> Any:
        total, weight = super().loss_sum(batch, **options)
        return total * (float("nan") if len(self.names) in self.batches else 1), weight


class Torn(ToyData):
    def __init__(self, unreadable: list[int]) -> None:
        self.unreadable = unreadable

    def __getitem__(self, index: int) -> Sample:
        if index in self.unreadable:
            raise UsageError(f"{index}.png: the file is empty")
        return super().__getitem__(index)


if __name__ == "__main__":
    torch.manual_seed(0)
    folder, given = Path(sys.argv[1]), json.loads(sys.argv[2])
    unreadable, (bad_process, batches) = given.pop("unreadable", []), given.pop("bad", [0, []])
    full_at = given.pop("full_at", None)
    accelerator = find_processes()
    model = Bad(batches if accelerator.process_index == bad_process else [])
    if full_at is not None:
        really = run_folder.check_space

        def check_space(root: Path, needed_bytes: int, purpose: str) -> None:
            really(root, needed_bytes if f"step {full_at}" not in purpose else 10**18, purpose)

        run_folder.check_space = check_space
    config = toy_config(log_every=1, checkpoint_every=1, **given)
    try:
        Training(model, Torn(unreadable), same, config, folder, accelerator=accelerator).run()
    except (FloatingPointError, UsageError) as error:
        accelerator.print(type(error).__name__)
        sys.stdout.write(f"process {accelerator.process_index}: {error}\n")

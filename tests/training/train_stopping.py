"""Trains for segmentation in several processes, of which the last gets SIGTERM while it reads its first validation
sample: train_stopping.py FOLDER SETTINGS.yaml."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from vpd.data.sample import Sample, SampleSet
from vpd.training import run
from vpd.training.config import TrainConfig
from vpd.training.settings import read_settings
from vpd.training.setup import build_data


class Stopping(SampleSet):
    def __init__(self, samples: SampleSet) -> None:
        self.samples, self.classes = samples, samples.classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        is_under_way = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # none of the looks before the first step
        if os.environ["RANK"] == "1" and is_under_way:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.samples[index]


def build_stopping_data(config: TrainConfig) -> Any:
    train_set, validation_set = build_data(config)
    return train_set, Stopping(validation_set)


if __name__ == "__main__":
    run.build_data = build_stopping_data
    try:
        run.train("segment", Path(sys.argv[1]), read_settings(sys.argv[2]))
    except SystemExit as error:
        sys.stdout.write(f"process {os.environ['RANK']} left with {error.code}\n")

"""Trains from every settings file in a folder, in as many processes as torchrun starts: train_all.py FOLDER."""

import sys
from pathlib import Path

from vpd.training.run import train
from vpd.training.settings import read_settings

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("*.yaml")):
        train(path.stem, folder / f"{path.stem} two", read_settings(path))

"""Trains the toy in as many processes as torchrun starts: train_toy.py FOLDER ACCUMULATE."""

import sys
from pathlib import Path

import torch
from toy import Toy, ToyData, same, toy_config

from vpd.training.loop import Training

if __name__ == "__main__":
    torch.manual_seed(0)
    config = toy_config(accumulate=int(sys.argv[2]), log_every=1)
    Training(Toy(), ToyData(), same, config, Path(sys.argv[1])).run()

"""The training loop: steps, validation, checkpoints. One loop for the three tasks, one process or many."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vpd.data.samples import SampleSet, Transform
from vpd.data.stream import SampleStream
from vpd.errors import UsageError
from vpd.evaluation import HIGHER_IS_BETTER, SCORE, evaluate, sample_sheet
from vpd.reference.keys import published_name
from vpd.tasks.model import PerceptionModel
from vpd.training.checkpoints import (
    Checkpoint,
    atomic_folder,
    prune_checkpoints,
    restore_optimiser,
    save_checkpoint,
)
from vpd.training.config import TrainConfig
from vpd.training.optimisers import build_optimiser, parameter_groups, set_learning_rate
from vpd.training.progress import Progress
from vpd.training.schedules import Schedule, build_schedule, poly_rate, rise_and_fall_rate
from vpd.types import Batch

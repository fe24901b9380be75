"""Evaluates three tasks in as many processes as torchrun starts: evaluate_tiny.py MODELS DATA OUT.

Writes what every process found, and what it raised where the last process is stopped, or meets a bad sample.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import vpd
from vpd.data.sample import Sample, SampleSet
from vpd.datasets.layouts import open_data
from vpd.errors import UsageError
from vpd.evaluation.evaluate import Interrupted, evaluate
from vpd.processes import find_processes


class OneWithoutTruth(SampleSet):
    """A data set whose last sample lacks its labels."""

    def __init__(self, whole: SampleSet) -> None:
        self.whole, self.classes = whole, whole.classes

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        return replace(sample, labels=None) if index == len(self) - 1 else sample


if __name__ == "__main__":
    models, data, out = (Path(word) for word in sys.argv[1:])
    accelerator = find_processes()
    is_last = accelerator.process_index == accelerator.num_processes - 1
    found = {}
    for task, options in (("segment", {}), ("refer", {"per_sentence": True}), ("depth", {})):
        model = vpd.load(models / task, device="cpu")
        samples = open_data(data / task, task, split="train", **options)
        found[task] = evaluate(model, samples, batch_size=2, workers=1, accelerator=accelerator)
    model = vpd.load(models / "segment", device="cpu")
    samples = open_data(data / "segment", "segment", split="train")
    try:
        evaluate(model, samples, accelerator=accelerator, should_stop=lambda: is_last)
    except Interrupted as error:
        found["stopped"] = str(error)
    try:
        evaluate(model, OneWithoutTruth(samples), accelerator=accelerator)
    except UsageError as error:
        found["bad"] = str(error)
    (out / f"{accelerator.process_index}.json").write_text(json.dumps(found))

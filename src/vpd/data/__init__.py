"""Data sets, transforms and batches: everything between a folder on a disk and the model."""

from vpd.data.checking import Report, check_data
from vpd.data.collation import collate
from vpd.data.opening import LAYOUTS, detect_format, open_data
from vpd.data.samples import Sample, SampleSet, Transform
from vpd.data.stream import SampleStream
from vpd.data.transforms import Pipeline, eval_transform, train_transform

__all__ = [
    "LAYOUTS",
    "Pipeline",
    "Report",
    "Sample",
    "SampleSet",
    "SampleStream",
    "Transform",
    "check_data",
    "collate",
    "detect_format",
    "eval_transform",
    "open_data",
    "train_transform",
]

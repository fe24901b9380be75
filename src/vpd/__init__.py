"""Dense perception from a pre-trained text-to-image diffusion model.

Names are imported when they are first used, so that `import vpd` and `vpd --help` do not wait for torch.
"""

import logging
import sys
from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any

from vpd.version import __version__ as __version__

if TYPE_CHECKING:
    from vpd.backbones.stable_diffusion import StableDiffusionBackbone
    from vpd.errors import UsageError
    from vpd.exporting.job import export
    from vpd.files.images import pad_to_multiple
    from vpd.inference.outputs import OutputError
    from vpd.loading import load
    from vpd.optimising import optimise
    from vpd.pipelines.pipeline import pipeline
    from vpd.tasks.depth import DepthModel
    from vpd.tasks.predictions import DepthPrediction, MaskPrediction, SegmentationPrediction
    from vpd.tasks.referring import ReferringModel
    from vpd.tasks.segmentation import SegmentationModel
    from vpd.tensors import Features

__all__ = [
    "DepthModel",
    "DepthPrediction",
    "Features",
    "MaskPrediction",
    "OutputError",
    "ReferringModel",
    "SegmentationModel",
    "SegmentationPrediction",
    "StableDiffusionBackbone",
    "UsageError",
    "export",
    "load",
    "optimise",
    "pad_to_multiple",
    "pipeline",
]

_HOMES = {
    "DepthModel": "vpd.tasks.depth",
    "DepthPrediction": "vpd.tasks.predictions",
    "Features": "vpd.tensors",
    "MaskPrediction": "vpd.tasks.predictions",
    "OutputError": "vpd.inference.outputs",
    "ReferringModel": "vpd.tasks.referring",
    "SegmentationModel": "vpd.tasks.segmentation",
    "SegmentationPrediction": "vpd.tasks.predictions",
    "StableDiffusionBackbone": "vpd.backbones.stable_diffusion",
    "UsageError": "vpd.errors",
    "export": "vpd.exporting.job",
    "load": "vpd.loading",
    "optimise": "vpd.optimising",
    "pad_to_multiple": "vpd.files.images",
    "pipeline": "vpd.pipelines.pipeline",
}


_IMPORTING = RLock()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vpd' has no attribute {name!r}")
    if _HOMES[name] in sys.modules:
        return getattr(import_module(_HOMES[name]), name)
    with _IMPORTING:  # other packages complain of parts that they lack while they are imported
        level = logging.root.manager.disable
        logging.disable(max(level, logging.WARNING))
        try:
            return getattr(import_module(_HOMES[name]), name)
        finally:
            logging.disable(level)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

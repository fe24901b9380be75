"""Other packages' chatter kept off the user's screen. Imports nothing heavy, so that it can come first."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Show what `vpd` logs, and of other packages errors only; `VPD_DEBUG` lets them speak."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("vpd").setLevel(logging.INFO)
    if os.environ.get("VPD_DEBUG"):
        return
    warnings.simplefilter("ignore")
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # where torchao is installed, others import it
    for variable in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

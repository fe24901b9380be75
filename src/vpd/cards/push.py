"""Brings a model to the hub, with its card."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from vpd.cards.card import CARD, MARK, Origin, model_card
from vpd.config import TaskConfig
from vpd.errors import UsageError
from vpd.files.atomic import read_json
from vpd.weights.hub import is_hub_id, look, no_answer, split_revision
from vpd.weights.shipped import LICENCE, WORLD
from vpd.weights.sources import SINGLE_FILE_SUFFIXES

_NOT_TOLD = "not told"


def push(
    config: TaskConfig,
    hub_id: str,
    save: Callable[[Path], object],
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
    evaluation: Mapping[str, Any] | str | Path | None = None,
) -> str:
    """Upload a model and its card as one commit, made whole or not at all; returns the commit's address.

    A card that somebody wrote by hand stays. Arguments as for `PerceptionModel.push_to_hub`; `save` writes the model
    into a folder, with `config` for its configuration.

    Raises:
        UsageError: If the name or the evaluation is no such thing, or the hub does not take the model.
    """
    if not is_hub_id(hub_id) or split_revision(hub_id)[1] is not None:
        raise UsageError(f"{hub_id!r}: give owner/name, where the model shall be; another branch by revision=.")
    measured = read_evaluation(evaluation)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="vpd-push-") as folder:
        save(Path(folder))
        _write(hub_id, lambda: api.create_repo(hub_id, private=private, exist_ok=True))
        if revision is not None:
            _write(hub_id, lambda: api.create_branch(hub_id, branch=revision, exist_ok=True))
        if not _is_hand_written(api, hub_id, revision):
            card = model_card(config, hub_id, origin_of(config), measured)
            (Path(folder) / CARD).write_text(card, encoding="utf-8")
        options: dict[str, Any] = {"repo_id": hub_id, "folder_path": folder, "revision": revision}
        options["commit_message"] = message or f"Model for {config.title}"
        return str(_write(hub_id, lambda: api.upload_folder(**options)).commit_url)


def read_evaluation(evaluation: Mapping[str, Any] | str | Path | None) -> Mapping[str, Any] | None:
    """What was measured: a dictionary of `evaluate`, or a file of `vpd eval`.

    Raises:
        UsageError: If it is neither.
    """
    found = read_json(Path(evaluation)) if isinstance(evaluation, (str, Path)) else evaluation
    if found is not None and not (isinstance(found, Mapping) and isinstance(found.get("metrics"), Mapping)):
        raise UsageError(
            f"evaluation={str(evaluation)[:80]}: give what evaluate returned, or a file of `vpd eval --out FILE.json` "
            "or scores.json of its report."
        )
    return found


def travelling(config: TaskConfig, licence: str | None = None) -> TaskConfig:
    """A configuration without the path that the diffusion model had on this machine, and with a licence if given."""
    source = config.backbone.source
    name = Path(source).name if source and _is_of_this_machine(source) else source
    changes: dict[str, Any] = {"backbone": config.backbone.model_copy(update={"source": name})}
    return config.model_copy(update=changes | ({} if licence is None else {"licence": licence}))


def _is_of_this_machine(source: str) -> bool:
    """Whether a source is a path; models of older versions hold short ones, which look like hub ids."""
    path = Path(source).expanduser()
    return not is_hub_id(source) or path.suffix.lower() in SINGLE_FILE_SUFFIXES or path.exists()


def origin_of(config: TaskConfig) -> Origin:
    """The diffusion model that a model was adapted from, with its licence where the hub tells."""
    name = travelling(config).backbone.source
    if name == WORLD:
        return Origin(name, LICENCE)
    if not is_hub_id(name):
        return Origin(name, _NOT_TOLD)
    try:
        return Origin(name, look(name).licence)
    except UsageError:  # it may be gone, or named otherwise than when the model was made
        return Origin(name, _NOT_TOLD)


def _is_hand_written(api: HfApi, hub_id: str, revision: str | None) -> bool:
    """Whether there is a card that was not made here, or was changed to be kept."""
    if not _write(hub_id, lambda: api.file_exists(hub_id, CARD, revision=revision)):
        return False
    path = _write(hub_id, partial(api.hf_hub_download, hub_id, CARD, revision=revision))
    return MARK not in Path(path).read_text(encoding="utf-8", errors="replace")


def _write(hub_id: str, act: Callable[[], Any]) -> Any:
    """Do something on the hub that needs a token which may write."""
    try:
        return act()
    except Exception as error:  # the HTTP library's own errors differ between versions of huggingface_hub
        if getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
            raise UsageError(
                f"The hub does not let you write to {hub_id}: that needs a token which may write, and a name that is "
                "yours or your organisation's. `hf auth login`, set HF_TOKEN, or give token=."
            ) from None
        raise UsageError(f"{hub_id} is not uploaded: {no_answer(error)}") from None

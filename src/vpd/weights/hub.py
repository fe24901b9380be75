"""Models on the Hugging Face hub: found, in the cache or there, and downloaded; each failure says what it was."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, TypeVar
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import HfApi, constants, get_token, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from tqdm import tqdm

from vpd.errors import UsageError, first_line
from vpd.weights.folder_files import Needed, Select

logger = logging.getLogger(__name__)

_PATIENCE_S = 2.0
_PROGRESS_EVERY_S = 10.0
_CONFIGURATIONS = ("config.json", "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json")
_LARGE = 1_000_000  # bytes, more than any configuration has
_LANDMARKS = ("unet/config.json", "config.json", "model_index.json")
"""Files of which a cached model has one."""
_NO_FOLDER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)
"""Numbers of what the system says where a cache cannot be made or written."""
_SPARE = 100e6  # bytes that a download leaves free
_T = TypeVar("_T")


class Listing(NamedTuple):
    """What the hub says of a repository."""

    sizes: dict[str, int]
    """Path -> bytes."""
    gated: bool
    """Whether its files need an account that agreed to its terms."""
    licence: str
    """As its card has it."""


def split_revision(source: str | Path) -> tuple[str, str | None]:
    """The hub id of `owner/name` or `owner/name@revision`, and the branch, tag or commit; none = the main branch."""
    hub_id, mark, revision = str(source).partition("@")
    return hub_id, revision if mark else None


def is_hub_id(source: str | Path) -> bool:
    """Whether a source has the form of a hub id, `owner/name` or `owner/name@revision`."""
    hub_id, revision = split_revision(source)
    try:
        validate_repo_id(hub_id)
    except HFValidationError:
        return False
    is_named = revision is None or re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./-]*", revision) is not None
    return is_named and hub_id.count("/") == 1 and not hub_id.startswith((".", "/", "~"))


def cached(hub_id: str, select: Select) -> Path | None:
    """Local snapshot of a repository, if all that is needed is in the cache."""
    repository, revision = split_revision(hub_id)
    for name in _LANDMARKS:
        found = try_to_load_from_cache(repository, name, cache_dir=constants.HF_HUB_CACHE, revision=revision)
        if isinstance(found, str):
            folder = Path(found).parents[name.count("/")]
            return None if choose(folder, select).lacking else folder
    return None


def choose(folder: Path, select: Select) -> Needed:
    """What is needed of a local folder."""
    return select({path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()})


def download(hub_id: str, select: Select, *, check: Callable[[Path], None] | None = None) -> Path:
    """Local snapshot of a hub repository: the cached one if all that is needed is there, else a download of that alone.

    Args:
        hub_id: `owner/name`, or `owner/name@revision`.
        select: What is needed.
        check: Looks at the configurations in a folder, before the rest is downloaded, and raises where they do not do.

    Raises:
        UsageError: If it is neither cached nor can be had, or lacks what is needed.
    """
    if (folder := cached(hub_id, select)) is not None:
        return folder
    listing = look(hub_id)
    if check and (folder := fetch_configurations(hub_id, listing)):
        check(folder)
    needed = select(listing.sizes)
    if needed.lacking:
        raise UsageError(tell_lacking(hub_id, needed, listing))
    total = sum(listing.sizes[name] for name in needed.files)
    _check_room(hub_id, total)
    logger.info("Downloading %s from the hub: %d files, %s MB.", hub_id, len(needed.files), f"{total / 1e6:,.0f}")
    patterns = [re.sub(r"([\[*?])", r"[\1]", name) for name in needed.files]
    repository, revision = split_revision(hub_id)
    options: dict[str, Any] = {"revision": revision, "allow_patterns": patterns, "tqdm_class": _progress(total)}
    reach(hub_id, lambda: snapshot_download(repository, **options))
    if (folder := cached(hub_id, select)) is None:
        raise UsageError(f"The download of {hub_id} is not complete. Start it again: it goes on where it stopped.")
    return folder


def tell_lacking(hub_id: str, needed: Needed, listing: Listing) -> str:
    """What a repository has not that a model needs, and what it may have instead."""
    singles = [name for name in listing.sizes if "/" not in name and name.endswith((".safetensors", ".ckpt"))]
    told = f"{hub_id} on the hub has no {needed.lacking}: it is not a model that can be used here."
    if any(name.endswith((".bin", ".pt", ".pth")) for name in listing.sizes):
        told += " Weights must be safetensors; convert pickled ones first."
    if singles and needed.lacking.startswith("unet/"):
        told += f" If {singles[0]} is a whole model: `hf download {hub_id} {singles[0]}`, and give that file."
    return told


def look(hub_id: str) -> Listing:
    """What the hub has under a name; answers in two seconds, or as long as HF_HUB_ETAG_TIMEOUT allows.

    Raises:
        UsageError: If it does not say.
    """
    patience_s = constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else _PATIENCE_S
    repository, revision = split_revision(hub_id)
    answers: list[Any] = []
    failures: list[Exception] = [TimeoutError(f"no answer within {patience_s:g} s")]

    def ask() -> None:  # in a thread, as look-up of the name and connecting have no total limit
        try:
            answers.append(HfApi().model_info(repository, revision=revision, timeout=patience_s, files_metadata=True))
        except Exception as error:
            failures[:] = [error]

    def wait() -> Any:
        thread = Thread(target=ask, daemon=True)
        thread.start()
        thread.join(patience_s)
        if not answers:
            raise failures[0]
        return answers[0]

    told = reach(hub_id, wait)
    sizes = {file.rfilename: file.size or 0 for file in told.siblings or ()}
    licence = getattr(told.card_data, "license", None) or getattr(told.card_data, "license_name", None)
    return Listing(sizes, bool(told.gated), str(licence or "not told"))


def page(hub_id: str) -> str:
    """Address of a repository for people."""
    return f"{_bare(constants.ENDPOINT)}/{split_revision(hub_id)[0]}"


def fetch_configurations(hub_id: str, listing: Listing) -> Path | None:
    """The folder with a repository's small configurations, cached or downloaded; none = it has none.

    Raises:
        UsageError: As `download`.
    """
    folder, (repository, revision) = None, split_revision(hub_id)
    for name in _CONFIGURATIONS:
        if listing.sizes.get(name, _LARGE) < _LARGE:
            path = reach(hub_id, partial(hf_hub_download, repository, name, revision=revision, tqdm_class=_progress(0)))
            folder = Path(path).parents[name.count("/")]
    return folder


def read_header(hub_id: str, name: str) -> dict[str, int]:
    """Type -> how many numbers of it a safetensors file in a repository holds; empty where the hub does not tell."""
    try:
        repository, revision = split_revision(hub_id)
        counted = HfApi().parse_safetensors_file_metadata(repository, name, revision=revision).parameter_count
        return {str(dtype): number for dtype, number in counted.items()}
    except Exception:  # a nicety, whatever the hub answers
        return {}


def reach(hub_id: str, act: Callable[[], _T]) -> _T:
    """What comes of asking the hub.

    Raises:
        UsageError: Instead of whatever is raised; says what went wrong, and what to do.
    """
    try:
        return act()
    except Exception as error:  # the HTTP library's own errors differ between versions of huggingface_hub
        raise UsageError(_why(hub_id, error)) from None


def _why(hub_id: str, error: Exception) -> str:
    """What went wrong between us and the hub, and what to do, for people."""
    chain = _chain(error)
    kinds = {cls.__name__ for each in chain for cls in type(each).__mro__}
    responses = [getattr(each, "response", None) for each in chain]
    status = next((response.status_code for response in responses if response is not None), 0)
    token = get_token()
    hub = "The hub" if constants.ENDPOINT == "https://huggingface.co" else f"{_bare(constants.ENDPOINT)} (HF_ENDPOINT)"
    if "GatedRepoError" in kinds:
        who = "the account of your token has not been let in, or the token may not read gated models"
        return (
            f"{hub_id} is gated, and {who if token else 'no token is set'}. Agree to its terms at "
            f"{page(hub_id)}, then `hf auth login`, or set HF_TOKEN."
        )
    if status == 401 and token:
        return (
            f"{hub} does not accept your token for {hub_id} (401): it is wrong or expired, or may not read this. "
            "`hf auth login` again, or unset HF_TOKEN for public models."
        )
    if "RevisionNotFoundError" in kinds:
        repository, revision = split_revision(hub_id)
        return f"{hub} has {repository}, but no branch, tag or commit {revision} of it: see {page(hub_id)}/tree/main."
    if "RepositoryNotFoundError" in kinds:
        login = "your token may not read it" if token else "no token is set (`hf auth login`)"
        return f"{hub} has no {hub_id}, or it is private and {login}. Check the name."
    if status == 403:
        return f"{hub} forbids {hub_id} (403): {'the token may not read it' if token else 'no token is set'}."
    if status == 429:
        return f"{hub} gets too many requests from here (429). Wait some minutes, or log in: `hf auth login`."
    if any(isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT) for each in chain):
        return f"The disk is full: {hub_id} does not fit into {constants.HF_HUB_CACHE}. Make room, or set HF_HOME."
    if any(isinstance(each, OSError) and each.errno in _NO_FOLDER for each in chain):
        return f"{constants.HF_HUB_CACHE} cannot be written, so {hub_id} cannot be kept. Set HF_HOME to a folder."
    if 400 <= status < 500 and status not in (404, 407):
        return f"{hub} does not give {hub_id} ({status}): {first_line(error)}"
    return (
        f"{hub_id} is not a folder here, not in the local cache (or only in part), and "
        f"{_unreachable(hub[0].lower() + hub[1:], chain, kinds, status)} "
        f"Or run `hf download {hub_id}` where there is network, or pass a local folder or file."
    )


def _unreachable(hub: str, chain: list[BaseException], kinds: set[str], status: int) -> str:
    """Why no complete answer came, as the rest of a sentence, and what to do."""
    text, cause, proxy = " ".join(map(str, chain)), first_line(chain[-1]), proxy_in_use()
    through = f" through the proxy {proxy}" if proxy else ""
    if constants.HF_HUB_OFFLINE or "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set, so nothing is downloaded. Unset it."
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            f"the certificate of {hub}{through} is not trusted. Where a proxy reads what passes, set SSL_CERT_FILE to "
            "its certificate."
        )
    if "ProxyError" in kinds or status == 407:
        return f"the proxy {proxy or 'that is set'} refuses ({cause}). Check HTTPS_PROXY, its user and password."
    if status >= 500:
        return f"{hub} answers with error {status}: it is out of order. Try again later."
    if kinds & {"RemoteProtocolError", "ReadError", "WriteError", "IncompleteRead"} or "Consistency check" in text:
        return f"the connection to {hub}{through} broke off. Start again: a download goes on where it stopped."
    if any("Timeout" in kind for kind in kinds):
        return f"{hub} gives no answer in time{through}. Check the network, or wait longer: HF_HUB_ETAG_TIMEOUT=30."
    if "gaierror" in kinds or re.search(r"getaddrinfo|ame or service|ame resolution|nodename", text):
        return f"the name of {hub}{through} cannot be looked up: no network, or no DNS. Check it, and HTTPS_PROXY."
    if kinds & {"ConnectError", "ConnectionError"}:
        checked = "Check HTTPS_PROXY." if proxy else "Check the network, HTTPS_PROXY and HF_ENDPOINT."
        return f"{hub} cannot be reached{through} ({cause}). {checked}"
    return (
        f"{hub}{through} does not answer as a hub does ({first_line(chain[0])[:200]}): a page to log in to the "
        "network, or no mirror? Check the network and HF_ENDPOINT."
    )


def no_answer(error: Exception) -> str:
    """Why no complete answer came from the hub, and what to do, for people."""
    chain = _chain(error)
    kinds = {cls.__name__ for each in chain for cls in type(each).__mro__}
    responses = [getattr(each, "response", None) for each in chain]
    status = next((response.status_code for response in responses if response is not None), 0)
    return _unreachable(_bare(constants.ENDPOINT), chain, kinds, status)


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what led to it, the first cause last."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain


def proxy_in_use() -> str:
    """The proxy that requests to the hub go through, without its password; empty = none."""
    scheme, _, rest = constants.ENDPOINT.partition("://")
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all") or ""
    return "" if not proxy or proxy_bypass(rest.split("/")[0]) else _bare(proxy)


def _bare(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def _check_room(hub_id: str, total: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if 0 < free < total + _SPARE:  # some systems do not tell, and say 0
        raise UsageError(
            f"{hub_id} takes {total / 1e6:,.0f} MB, and {existing} has {free / 1e6:,.0f} MB free. Make room, or set "
            "HF_HOME to a folder on another disk."
        )


def _progress(total: int) -> Any:
    """What huggingface_hub takes for a progress bar: it draws nothing, and tells our log how much of `total` came."""
    told_at = [time.monotonic()]

    class Progress(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.counts_bytes = options.get("unit") == "B"
            super().__init__(*arguments, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self.counts_bytes and total and time.monotonic() - told_at[0] > _PROGRESS_EVERY_S:
                told_at[0] = time.monotonic()
                logger.info("%s of %s MB are here.", f"{self.n / 1e6:,.0f}", f"{total / 1e6:,.0f}")

    return Progress

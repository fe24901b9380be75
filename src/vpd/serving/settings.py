"""What a service is told when it starts, and what it refuses to start with."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from vpd.config import Frozen
from vpd.errors import UsageError
from vpd.serving.schemas import MOST_CLASSES, MOST_SIDE_PX

LOOPBACK = "127.0.0.1"


class ServiceSettings(Frozen):
    """Where a service listens, whom it lets in, and how much it takes on."""

    host: str = LOOPBACK
    """Address to listen at."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 7860
    """Port to listen at; 0 = any that is free."""
    token: str | None = None
    """What every caller must give; needed at addresses that other machines reach."""
    origins: tuple[str, ...] = ()
    """Web pages of other origins whose scripts may call, such as `https://example.org`; none = no CORS."""
    max_upload_mb: PositiveFloat = 25.0
    """Largest request, MB."""
    max_px: PositiveInt = 40_000_000
    """Largest picture, pixels; looked up in its header before it is decoded."""
    max_size: Annotated[int, Field(ge=8, le=MOST_SIDE_PX)] | None = None
    """Largest `size` that a caller may ask for, pixels; none = twice the model's own. Work grows with its square at
    least, that of the finest attention with its fourth power."""
    max_new_classes: Annotated[int, Field(ge=0, le=MOST_CLASSES)] = 64
    """Most class names of a request that the model does not know: each is read in all its sentences, most often 80."""
    queue: PositiveInt = 64
    """Requests that are received, wait and run at a time; more are refused with 429."""
    batch: PositiveInt | None = None
    """Waiting pictures that run together; none = 8 on a GPU, 1 on a CPU, where large models gain nothing by it."""
    timeout_s: PositiveFloat = 60.0
    """Seconds that a request may take to arrive, and then to be answered."""

    @model_validator(mode="after")
    def _check(self) -> ServiceSettings:
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and len(self.token) >= 8):
            raise ValueError("a token has at least 8 letters, all of them ASCII")
        for origin in self.origins:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise ValueError(f"an origin is written as https://example.org or http://host:port, not {origin!r}")
        return self

    @property
    def most_bytes(self) -> int:
        """Of a request."""
        return int(self.max_upload_mb * 1_000_000)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_reach(settings: ServiceSettings) -> None:
    """Refuse to let everybody in.

    Raises:
        UsageError: If other machines reach the address and there is no token.
    """
    if not is_loopback(settings.host) and settings.token is None:
        raise UsageError(
            f"--host {settings.host} lets other machines in, so callers must show a token: give --token WORD (or set "
            f"VPD_TOKEN), or stay with --host {LOOPBACK}."
        )

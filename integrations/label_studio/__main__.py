"""Start a backend for Label Studio: see docs/labelling.md."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from vpd.cli import DEBUG_VARIABLE, describe, quiet_libraries
from vpd.errors import UsageError
from vpd.serving.installed import check_installed
from vpd.serving.schemas import MOST_CLASSES
from vpd.serving.settings import LOOPBACK, ServiceSettings, check_reach

URL_VARIABLE, KEY_VARIABLE = "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"
PORT = 9090


def main() -> None:
    """Read the command line, and serve until told to stop; mistakes are told in a line."""
    quiet_libraries()
    logging.getLogger("integrations").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        _serve(parser().parse_args())
    except Exception as error:
        message = None if os.environ.get(DEBUG_VARIABLE) else describe(error)
        if message is None:
            raise
        sys.exit(f"vpd: {message}")


def parser() -> argparse.ArgumentParser:
    """Its options."""
    options = argparse.ArgumentParser(prog="python -m integrations.label_studio", description=__doc__)
    options.add_argument("--model", required=True, help="model folder, run or hub id, or NAME=MODEL")
    options.add_argument(
        "--label-studio",
        metavar="URL",
        default=os.environ.get(URL_VARIABLE),
        help=f"where Label Studio is, such as http://localhost:8080 (or set {URL_VARIABLE})",
    )
    options.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"file with a user's access token, which Label Studio shows under Account (or set {KEY_VARIABLE})",
    )
    options.add_argument(
        "--pictures-from",
        action="append",
        default=[],
        metavar="URL",
        help="another server that has pictures, such as a bucket's; again for more",
    )
    options.add_argument("--min-presence", type=float, help="score below which an expression fits nothing")
    options.add_argument("--host", default=LOOPBACK, help="address to listen at; others than loopback need a token")
    options.add_argument("--port", type=int, default=PORT)
    options.add_argument(
        "--token",
        default=os.environ.get("VPD_TOKEN"),
        help="what Label Studio must show: its basic authentication's password (or set VPD_TOKEN)",
    )
    options.add_argument("--timeout", type=float, default=60.0, help="seconds for a picture")
    options.add_argument(
        "--max-upload-mb", type=float, default=25.0, help="largest request, and largest picture's file"
    )
    options.add_argument("--max-px", type=int, default=40_000_000, help="largest picture, pixels")
    options.add_argument("--device", default="auto")
    options.add_argument("--memory", help="what a prediction may take, such as 4GB")
    return options


def _serve(asked: argparse.Namespace) -> None:
    if not asked.label_studio:
        raise UsageError(f"Say where Label Studio is: --label-studio http://localhost:8080, or {URL_VARIABLE}.")
    settings = ServiceSettings(
        host=asked.host,
        port=asked.port,
        token=asked.token,
        timeout_s=asked.timeout,
        max_upload_mb=asked.max_upload_mb,
        max_px=asked.max_px,
        max_new_classes=MOST_CLASSES,  # labels of a project, which no stranger wrote
    )
    check_reach(settings)
    check_installed(with_page=False)
    if find_spec("httpx") is None:
        raise UsageError("Pictures are fetched by httpx, which is not installed: pip install httpx.")
    from integrations.label_studio.answers import check_task
    from integrations.label_studio.backend import PATHS, Backend, add_backend
    from integrations.label_studio.pictures import Pictures
    from vpd.serving.routes import create_app, is_service_path
    from vpd.serving.run import address, listen, serve
    from vpd.serving.served import load_served
    from vpd.serving.service import Service

    pictures = Pictures(
        asked.label_studio,
        token=_token(asked.token_file),
        servers=asked.pictures_from,
        most_bytes=settings.most_bytes,
        timeout_s=settings.timeout_s,
    )
    listening = listen(settings)
    (served,) = load_served([asked.model], device=asked.device, max_px=settings.max_px, memory=asked.memory)
    check_task(served.model)
    service = Service([served], settings)
    app = create_app(service)
    backend = Backend(service, served, pictures, min_presence=asked.min_presence)
    add_backend(app, service, backend)
    where = address(settings, listening)
    print(f"{backend.version} ({served.task}) for Label Studio: {where}   HTTP: {where}/docs", flush=True)
    serve(app, service, settings, listening, is_open=lambda path: path in PATHS or is_service_path(path))


def _token(path: Path | None) -> str | None:
    """The token of a file, or of the environment; not one that HTTP would refuse, as its errors show what it was."""
    if path is None and KEY_VARIABLE not in os.environ:
        return None
    try:
        token = (os.environ[KEY_VARIABLE] if path is None else path.read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The token in {path} cannot be read ({error}).") from None
    if path is None and not token:
        return None
    if not token or not token.isascii() or not token.isprintable():
        raise UsageError(f"{path or KEY_VARIABLE} holds no token: it must be one line, as Label Studio shows it.")
    return token


if __name__ == "__main__":
    main()

"""`vpd app`: a page and an HTTP service in front of models."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpd.cli.options import DeviceOption, DtypeOption, FastOption, MemoryOption, speed_options

if TYPE_CHECKING:
    from vpd.serving.served import Served

TOKEN_VARIABLE = "VPD_TOKEN"  # noqa: S105, the name of it


def app(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Model folder, run or hub id, or NAME=MODEL; again for more. None: those that come with the package.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen at; others than loopback need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Port; 0 = any that is free.")] = 7860,
    token: Annotated[
        str | None,
        typer.Option(metavar="WORD", envvar=TOKEN_VARIABLE, help="What callers must show.", show_default=False),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Web page whose scripts may call (CORS); again for more.", show_default=False),
    ] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="With the page, or the service alone.")] = True,
    queue: Annotated[int, typer.Option(metavar="N", help="Requests at a time; more are refused with 429.")] = 64,
    batch: Annotated[
        int | None,
        typer.Option(metavar="N", help="Waiting pictures that run together; 8 on a GPU, 1 on a CPU if not given."),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="S", help="Seconds to arrive, and to be answered.")] = 60.0,
    max_upload_mb: Annotated[float, typer.Option(metavar="MB", help="Largest request.")] = 25.0,
    max_px: Annotated[int, typer.Option(metavar="N", help="Largest picture, pixels.")] = 40_000_000,
    max_size: Annotated[
        int | None,
        typer.Option(metavar="PX", help="Largest `size` that callers may ask for; twice the model's own if not given."),
    ] = None,
    max_new_classes: Annotated[
        int, typer.Option(metavar="N", help="Most class names of a request that the model does not know.")
    ] = 64,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    fast: FastOption = False,
    memory: MemoryOption = None,
) -> None:
    """Serve models to people and programs: a page, and /v1/segment, /v1/refer, /v1/depth beside it.

    Ctrl-C or SIGTERM stops it, once what was accepted is finished. Nothing is sent anywhere, and uploads are not kept.
    """
    from vpd.serving.settings import ServiceSettings, check_reach

    settings = ServiceSettings(
        host=host,
        port=port,
        token=token,
        origins=tuple(origin or ()),
        queue=queue,
        batch=batch,
        timeout_s=timeout,
        max_upload_mb=max_upload_mb,
        max_px=max_px,
        max_size=max_size,
        max_new_classes=max_new_classes,
    )
    check_reach(settings)
    from vpd.serving.installed import check_installed

    check_installed(with_page=page)
    speed, dtype = speed_options(fast=fast, dtype=dtype, encoder=None, keep_heap=False, memory=memory)
    from vpd.optimising import optimise
    from vpd.processes import Heartbeat
    from vpd.serving.routes import create_app, is_service_path
    from vpd.serving.run import address, listen, serve
    from vpd.serving.served import load_served
    from vpd.serving.service import Service

    listening = listen(settings)
    with Heartbeat(enabled=True) as heartbeat, heartbeat.doing("Reading models"):
        models = load_served(model or (), device=device, dtype=dtype, max_px=max_px, memory=memory)
    if speed is not None:
        for served in models:
            served.model = optimise(served.model, dtype=speed["dtype"])
    service = Service(models, settings)
    served_app = create_app(service)
    with ExitStack() as stack:
        guarding: dict[str, Any] = {"is_open": is_service_path}
        if page:
            from vpd.serving.page.intake import most_page_bytes
            from vpd.serving.page.page import add_page, is_page_path
            from vpd.serving.page.scratch import scratch_folder

            add_page(served_app, service, stack.enter_context(scratch_folder()))
            guarding = {
                "is_open": lambda path: is_service_path(path) or is_page_path(path),
                "most_bytes_of": lambda path: most_page_bytes(path, settings.most_bytes),
            }
        _greet(models, address(settings, listening), page=page, needs_token=token is not None)
        serve(served_app, service, settings, listening, **guarding)


def _greet(models: Sequence[Served], where: str, *, page: bool, needs_token: bool) -> None:
    print(f"Models: {', '.join(f'{served.name} ({served.task})' for served in models)}")
    if all(served.is_miniature for served in models):
        print("These know rendered scenes only; --model takes yours.")
    print(
        f"{'Page' if page else 'Service'}: {where}/{'?token=TOKEN' if needs_token else ''}   HTTP: {where}/docs",
        flush=True,
    )

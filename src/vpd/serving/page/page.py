"""The page itself: a tab a task, and one for many pictures."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from vpd.errors import UsageError, wrong_fields
from vpd.serving.engine import BusyError
from vpd.serving.page.batch import MOST_PICTURES, write_archive
from vpd.serving.page.examples import render_examples
from vpd.serving.page.fields import batch_fields, changed_batch_fields, changed_fields, word_fields
from vpd.serving.page.intake import MOST_KEPT_BYTES, Intake
from vpd.serving.page.results import Results, results_router
from vpd.serving.page.scratch import Scratch
from vpd.serving.routes import REQUESTS
from vpd.serving.service import Service, UnknownModelError

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
_EMPTY = "<p class='vpd-hint'>The answer appears here.</p>"
_FONTS = ("system-ui", "sans-serif")


def add_page(app: FastAPI, service: Service, scratch: Scratch) -> None:
    """Mount the page at the root of a service's application.

    Args:
        app: Of the service.
        service: What it asks; a person waits in the same queue as programs.
        scratch: Where uploads lie for a while.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(scratch.folder)
    app.add_middleware(Intake, service=service, scratch=scratch)
    results = Results()
    scratch.sweep_too(results.sweep)
    app.include_router(results_router(results))
    app.mount("/page/static", StaticFiles(directory=STATIC), name="page-static")
    blocks = _blocks(service, results, scratch)
    theme = gr.themes.Default(font=_FONTS, font_mono=("ui-monospace", "monospace"), primary_hue="blue")
    theme.set(block_info_text_color="*neutral_600", input_placeholder_color="*neutral_500")  # grey that can be read
    theme.set(block_info_text_color_dark="*neutral_300", input_placeholder_color_dark="*neutral_400")
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=service.settings.most_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css_paths=[STATIC / "page.css"],
        head='<script src="page/static/viewer.js" defer></script>',
    )
    scratch.keep_all()


def _blocks(service: Service, results: Results, scratch: Scratch) -> gr.Blocks:
    with gr.Blocks(title="vpd", analytics_enabled=False) as blocks:
        gr.HTML(_heading(service), elem_id="vpd-heading")
        with gr.Tabs():
            for task in service.tasks:
                if task in REQUESTS:
                    with gr.Tab(task.capitalize(), id=task):
                        _task_tab(task, service, results, scratch)
            with gr.Tab("Many pictures", id="batch"):
                _batch_tab(service, results, scratch)
    blocks.queue(max_size=service.settings.queue, default_concurrency_limit=min(16, service.settings.queue))
    return blocks


def _heading(service: Service) -> str:
    names = ", ".join(escape(served.name) for served in service.models)
    told = "<h1>vpd</h1><p>Pixel-precise answers about pictures. "
    told += f'Models: {names}. For programs: <a href="docs">HTTP</a>.</p>'
    if all(served.is_miniature for served in service.models):
        told += "<p class='vpd-note'>These small models know rendered scenes only, such as the examples; "
        told += "what they make of photographs means nothing. <code>vpd app --model</code> takes yours.</p>"
    return told


def _task_tab(task: str, service: Service, results: Results, scratch: Scratch) -> None:
    examples = render_examples(scratch.folder / "examples", task)
    models = [served for served in service.models if served.task == task]
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            gr.HTML(f"<p>{REQUESTS[task][2]}</p>")
            picture = gr.Image(
                label="Picture: upload, paste, or webcam",
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard", "webcam"],
                buttons=[],
                height=280,
                elem_id=f"{task}-picture",
            )
            names, fields = word_fields(task, models[0])
            choice = gr.Dropdown(
                [served.name for served in models],
                value=models[0].name,
                label="Model",
                visible=len(models) > 1,
                elem_id=f"{task}-model",
            )
            button = gr.Button("Run", variant="primary", elem_id=f"{task}-run")
            if examples:
                main = [fields[names.index("text")]] if "text" in names else []
                gr.Examples(
                    [[path, *([text] if main else [])] for path, text in examples], [picture, *main], label="Examples"
                )
        with gr.Column(scale=3, min_width=280):
            viewer = gr.HTML(_EMPTY, elem_id=f"{task}-viewer", min_height=240)
    run = partial(_run, service, results, scratch, task, names)
    inputs = [picture, choice, *fields]
    for start in (button.click, *(field.submit for field in fields if isinstance(field, gr.Textbox))):
        # not read by the page's framework, which knows no limits: decoded where all pictures are
        start(run, inputs, viewer, preprocess=False, api_visibility="private", trigger_mode="once")
    _follow(choice, lambda name: changed_fields(task, names, service.find(task, name)), fields)


def _follow(choice: gr.Dropdown, changed: Callable[[Any], Any], fields: Sequence[Any]) -> None:
    """Show in the fields what is of the model, as soon as another one is chosen."""

    def follow(name: Any) -> Any:
        try:
            return changed(name)
        except UnknownModelError:  # no browser asks so
            return [gr.skip() for _ in fields] if len(fields) > 1 else gr.skip()

    # not by the queue, in which pictures wait
    choice.change(
        follow, choice, [*fields], preprocess=False, queue=False, show_progress="hidden", api_visibility="private"
    )


async def _run(
    service: Service,
    results: Results,
    scratch: Scratch,
    task: str,
    names: Sequence[str],
    picture: Any,
    model: Any,
    *given: Any,
) -> str:
    """Ask about one picture; gives the viewer, or says what was wrong."""
    words = {name: value for name, value in zip(names, given, strict=True) if value not in ("", None)}
    attention = bool(words.pop("attention", False))
    try:
        path = scratch.uploaded(picture)
        asked = REQUESTS[task][0].model_validate({**words, "model": model})
        with service.engine.place():
            served = service.find(task, asked.model)
            content = await run_in_threadpool(path.read_bytes)
            ask = partial(service.ask, served, content, asked.words(), attention=attention)
            waiting = await run_in_threadpool(ask)
            answered = await asyncio.wait_for(asyncio.wrap_future(waiting), service.settings.timeout_s)
    except Exception as error:
        return _error(_words_of(error, service))
    return f'<vpd-viewer src="page/results/{results.add(answered, served.name)}"></vpd-viewer>'


def _batch_tab(service: Service, results: Results, scratch: Scratch) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            gr.HTML(
                f"<p>Up to {MOST_PICTURES} pictures; the answer is a zip with what <code>vpd predict</code> writes.</p>"
            )
            files = gr.File(label="Pictures", file_count="multiple", file_types=["image"], elem_id="batch-files")
            model = gr.Dropdown(
                [served.name for served in service.models],
                label="Model",
                value=service.models[0].name,
                elem_id="batch-model",
            )
            names, fields = batch_fields(service.models[0].task)
            button = gr.Button("Run", variant="primary", elem_id="batch-run")
        with gr.Column(scale=3, min_width=280):
            shown = gr.HTML(_EMPTY, elem_id="batch-viewer", min_height=120)

    # a step a picture: when the browser's tab is closed, the framework takes no further one
    def run(pictures: Any, name: Any, *given: Any) -> Iterator[str]:
        try:
            paths = [scratch.uploaded(picture) for picture in pictures or ()]
            yield from _run_batch(service, results, scratch, paths, name, dict(zip(names, given, strict=True)))
        except Exception as error:
            yield _error(_words_of(error, service))

    inputs = [files, model, *fields]
    button.click(run, inputs, shown, preprocess=False, api_visibility="private", trigger_mode="once")
    _follow(model, lambda name: changed_batch_fields(service.named(name).task), fields)


def _run_batch(
    service: Service, results: Results, scratch: Scratch, paths: Sequence[Path], name: Any, given: dict[str, Any]
) -> Iterator[str]:
    """How far it is, and at last the answer."""
    served = service.named(name)
    asked_type = REQUESTS[served.task][0]
    offered = {"classes": given["word"], "text": given["word"], **given}
    told = {name: each for name, each in offered.items() if each is not None and str(each).strip()}
    words = asked_type.model_validate({name: told[name] for name in asked_type.model_fields if name in told}).words()
    service.check(served, words)
    if scratch.bytes_used() > MOST_KEPT_BYTES:
        raise BusyError("Too many uploads are kept at the moment.", retry_after_s=60)
    archive = scratch.folder / f"predictions-{os.urandom(8).hex()}.zip"
    failed: list[str] = []
    steps = write_archive(
        archive,
        paths,
        lambda content: service.ask(served, content, words),
        timeout_s=service.settings.timeout_s,
        failed=failed,
        say=lambda error: _words_of(error, service),
    )
    with service.engine.place(), closing(steps):
        for done in steps:
            yield f"<p>{done} of {len(paths)} done.</p>"
    done = len(paths) - len(failed)
    source = f"page/results/{results.add_file(archive)}/predictions.zip"
    link = f'<a class="vpd-link" href="{source}" download>Download (.zip)</a>'
    lines = "".join(f"<li>{escape(line)}</li>" for line in failed)
    yield f"<p role='status'>{done} of {len(paths)} predicted. {link}</p>" + (
        f"<ul class='vpd-error'>{lines}</ul>" if lines else ""
    )


def _words_of(error: Exception, service: Service) -> str:
    """What a person is told."""
    if isinstance(error, ValidationError):
        return "; ".join(map(str, wrong_fields(error)))
    if isinstance(error, BusyError):
        return f"{error} Try again in {error.retry_after_s} s."
    if isinstance(error, TimeoutError):
        return f"There was no answer within {service.settings.timeout_s:g} s."
    if isinstance(error, FileNotFoundError):
        return "The picture is not kept any more: give it again."
    if isinstance(error, (UsageError, UnknownModelError)):
        return str(error)
    logger.error("The page could not answer.", exc_info=error)
    return "The prediction failed; the service's log says why."


def _error(message: str) -> str:
    return f"<p role='alert' class='vpd-error'>{escape(message)}</p>"


def is_page_path(path: str) -> bool:
    """Whether the page's framework needs a path; its other ones (proxies, run histories, editing) stay closed."""
    return path in _PATHS or (path.startswith(_STARTS) and "://" not in path)  # it would lead elsewhere


_PATHS = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/gradio_api/run/predict")
_STARTS = (
    "/assets/",
    "/static/",
    "/svelte/",
    "/page/",
    *(
        f"/gradio_api/{part}"
        for part in ("upload", "queue/", "file=", "heartbeat/", "startup-events", "cancel", "reset")
    ),
)

"""The paths that Label Studio asks a backend for."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from integrations.label_studio.answers import check_task, prediction_of, questions
from integrations.label_studio.label_config import LabelConfig, read_label_config
from integrations.label_studio.pictures import Pictures
from vpd.errors import UsageError
from vpd.serving.engine import BusyError
from vpd.serving.routes import GONE
from vpd.serving.schemas import MOST_LETTERS
from vpd.serving.served import Served
from vpd.serving.service import Service

logger = logging.getLogger(__name__)

PATHS = ("/health", "/setup", "/predict", "/versions", "/webhook")
_MOST_TASKS, _MOST_CONFIG = 1000, 1_000_000
_XML = Annotated[str, Field(max_length=_MOST_CONFIG)]


class SetupRequest(BaseModel):
    """What Label Studio sends when a project is connected; its host and token are not used."""

    schema_: Annotated[_XML, Field(alias="schema")]
    """The project's labelling configuration."""


class Task(BaseModel):
    """A task of a project."""

    id: int | None = None
    """Its number."""
    data: dict[str, Any]
    """Its fields, with the address of its picture."""


class PredictRequest(BaseModel):
    """What Label Studio sends to have tasks predicted."""

    tasks: Annotated[list[Task], Field(min_length=1, max_length=_MOST_TASKS)]
    """All of one project."""
    label_config: _XML
    """The project's labelling configuration."""
    params: dict[str, Any] | None = None
    """With `context`, what a person just did: a text that was entered."""


class Backend:
    """Answers tasks of Label Studio with a model of a service.

    Args:
        service: What runs the model.
        served: The model: segments or refers.
        pictures: What fetches the tasks' pictures.
        min_presence: Score below which an expression fits nothing; none = nothing is withheld.

    Raises:
        UsageError: If the model is for another task.
    """

    def __init__(
        self, service: Service, served: Served, pictures: Pictures, *, min_presence: float | None = None
    ) -> None:
        check_task(served.model)
        self._service, self._served, self._pictures, self._min_presence = service, served, pictures, min_presence
        self.version = f"{served.name}-{_mark(served.model)}"
        """What Label Studio calls the model; another one after training, so that it asks anew."""

    def check(self, config: LabelConfig) -> None:
        """Refuse a project that the model can do nothing for.

        Raises:
            UsageError: If this is one.
        """
        questions(self._served.model, config, None, 1, min_presence=None)

    async def predict(self, task: Task, config: LabelConfig, text: str | None) -> dict[str, Any]:
        """A prediction of Label Studio for a task.

        Raises:
            UsageError: If there is none, and why.
            TimeoutError: If it takes too long.
        """
        content = await run_in_threadpool(self._pictures.read, task.data.get(config.image_field), task.id)
        pixels = self._served.count_pixels(content)
        text = text or config.text_of(task.data)
        if text is not None and len(text) > MOST_LETTERS:
            raise UsageError(f"The expression has {len(text)} letters; {MOST_LETTERS} are the most.")
        asked = questions(self._served.model, config, text, pixels, min_presence=self._min_presence)
        answers = []
        async with asyncio.timeout(self._service.settings.timeout_s):  # for all of them: Label Studio waits no longer
            for question in asked:
                waiting = await run_in_threadpool(self._service.ask, self._served, content, dict(question.words))
                answers.append((await asyncio.wrap_future(waiting)).prediction)
        return await run_in_threadpool(prediction_of, asked, answers, self.version)

    async def predict_or_say(
        self, task: Task, config: LabelConfig, text: str | None
    ) -> tuple[dict[str, Any], str | None]:
        """A prediction; or an empty one that Label Studio will ask for again, and why it is empty."""
        try:
            return await self.predict(task, config, text), None
        except UsageError as error:
            why = str(error)
        except TimeoutError:
            why = f"There was no answer within {self._service.settings.timeout_s:g} s."
        except Exception:  # the others of the request have their answer
            logger.exception("Task %s failed.", task.id)
            why = "The prediction failed; the service's log says why."
        logger.warning("Task %s: %s", task.id, why)
        return {"result": [], "model_version": f"{self.version} (failed)"}, why


def add_backend(app: FastAPI, service: Service, backend: Backend) -> None:
    """Add the paths of Label Studio to a service."""
    placed = APIRouter(route_class=_route_class(service))

    @app.get("/health", summary="Whether the backend is up, as Label Studio asks it.")
    async def health() -> dict[str, str]:
        return {"status": "UP", "model_class": backend.version}

    @app.get("/versions", summary="The model that answers.")
    async def versions() -> dict[str, list[str]]:
        return {"versions": [backend.version]}

    @placed.post("/setup", summary="Whether the model can do something for a project of Label Studio.")
    async def setup(asked: SetupRequest) -> JSONResponse:
        try:
            backend.check(await run_in_threadpool(read_label_config, asked.schema_))
        except UsageError as error:
            return _problem(422, str(error))
        return JSONResponse({"model_version": backend.version})

    @placed.post("/predict", summary="Predictions for tasks of Label Studio.")
    async def predict(asked: PredictRequest, request: Request) -> JSONResponse:
        try:
            return await _predict(backend, asked, request, together=service.engine.batch)
        except UsageError as error:
            return _problem(422, str(error))

    @placed.post("/webhook", summary="What Label Studio tells of a project; nothing is trained from here.")
    async def webhook(told: dict[str, Any]) -> JSONResponse:
        if told.get("action") == "START_TRAINING":
            return _problem(501, "Export the project as JSON and train on it: vpd train segment --data FOLDER.")
        return JSONResponse({"status": "ignored"})

    app.include_router(placed)


def _route_class(service: Service) -> type[APIRoute]:
    """Of paths with a body: a place of the queue is taken before it is read; the guard keeps its time."""

    class Placed(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer = super().get_route_handler()

            async def handle(request: Request) -> Response:
                try:
                    with service.engine.place():
                        await request.body()  # the request keeps it
                        return await answer(request)
                except ClientDisconnect:
                    return Response(status_code=GONE)
                except BusyError as error:
                    status = 503 if service.engine.is_stopping else 429
                    return _problem(status, str(error), {"Retry-After": str(error.retry_after_s)})

            return handle

    return Placed


async def _predict(backend: Backend, asked: PredictRequest, request: Request, *, together: int) -> JSONResponse:
    """All tasks, as many at a time as run together; until whoever asked is gone."""
    config = await run_in_threadpool(read_label_config, asked.label_config)
    backend.check(config)
    text = _entered_text(asked.params or {})
    results: list[dict[str, Any]] = []
    problems: list[str] = []
    for start in range(0, len(asked.tasks), together):
        if await request.is_disconnected():
            break
        group = asked.tasks[start : start + together]
        for prediction, why in await asyncio.gather(*(backend.predict_or_say(task, config, text) for task in group)):
            results.append(prediction)
            problems += [why] if why else []
    if len(problems) == len(asked.tasks):
        raise UsageError(problems[0] if len(set(problems)) == 1 else f"No task could be predicted. {problems[0]}")
    return JSONResponse({"results": results, "model_version": backend.version})


def _entered_text(params: Mapping[str, Any]) -> str | None:
    """The last text that a person entered for a prediction, as `context` tells it."""
    context = params.get("context")
    regions = context.get("result") if isinstance(context, dict) else None
    for region in reversed(regions if isinstance(regions, list) else []):
        value = region.get("value") if isinstance(region, dict) else None
        texts = value.get("text") if isinstance(value, dict) else None
        for text in reversed(texts if isinstance(texts, list) else [texts]):
            if isinstance(text, str) and text.strip():
                return text.strip()
    return None


def _mark(model: Any) -> str:
    """What tells this model's weights from others': of its head, which every training changes."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.head.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    logger.warning("%d: %s", status, message)  # Label Studio shows its users the status alone
    return JSONResponse({"detail": message}, status_code=status, headers=headers)

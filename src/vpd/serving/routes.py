"""The paths of the HTTP service: one a task, what is served, and how it is doing. They need no page."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi_offline import FastAPIOffline
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from vpd.errors import UsageError, wrong_fields
from vpd.files.decoding import TooLargeError
from vpd.inference.outputs import OutputError
from vpd.serving import schemas
from vpd.serving.answers import as_answer, as_file
from vpd.serving.counters import CONTENT_TYPE
from vpd.serving.engine import BusyError
from vpd.serving.served import Answered
from vpd.serving.service import Service, UnknownModelError
from vpd.serving.uploads import IMAGE_FIELD, UploadError, read_upload
from vpd.version import __version__

logger = logging.getLogger(__name__)

REQUESTS: dict[str, tuple[type[schemas.Request], type[schemas.Answer], str]] = {
    "segment": (schemas.SegmentRequest, schemas.SegmentAnswer, "The class of each pixel."),
    "refer": (schemas.ReferRequest, schemas.ReferAnswer, "The pixels that an expression means."),
    "depth": (schemas.DepthRequest, schemas.DepthAnswer, "The distance of each pixel, metres."),
}
"""Task -> what it is asked, what it answers, what that is."""
GONE = 499
"""Status in the counters where nobody waits for the answer."""
_PROBLEMS = {
    400: "The form cannot be read.",
    401: "The token is missing or wrong.",
    404: "There is no such model.",
    408: "The request took too long to arrive.",
    413: "The request, or the picture, is too large.",
    415: "The body is neither a form nor a picture.",
    422: "The picture cannot be read, or the words do not fit the model.",
    429: "Too many requests are being served: `Retry-After` says when to try again.",
    503: "The service is stopping.",
    504: "The answer took too long.",
}


_PATHS = ("/docs", "/openapi.json", "/healthz", "/metrics")
_STARTS = ("/v1/", "/docs/", "/static-offline-docs/")


def is_service_path(path: str) -> bool:
    """Whether a path is one of the service's."""
    return path in _PATHS or path.startswith(_STARTS)


def create_app(service: Service) -> FastAPI:
    """The service as an ASGI application, with its own documentation under `/docs`; `Guard` goes around it."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.engine.close, service.settings.timeout_s)

    app = FastAPIOffline(
        title="vpd",
        version=__version__,
        description="Segmentation, referring segmentation and metric depth. Pictures come as a form with the file "
        "`image`, or as the body itself with the words in the query.",
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    for task in service.tasks:
        if task in REQUESTS:
            _add_task(app, service, task)
    _add_facts(app, service)
    return app


def _add_task(app: FastAPI, service: Service, task: str) -> None:
    asked_type, answer_type, what = REQUESTS[task]

    async def handle(request: HttpRequest) -> Response:
        began_s = time.monotonic()
        response = await _handle(service, task, asked_type, request)
        service.counters.saw_request(task, response.status_code, time.monotonic() - began_s)
        return response

    form = asked_type.model_json_schema()
    form["properties"] = {IMAGE_FIELD: {"type": "string", "format": "binary"}, **form["properties"]}
    form["required"] = [IMAGE_FIELD, *form.get("required", ())]
    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "model": answer_type,
            "content": {kind: {} for kind in ("image/png", "application/x-npy", "image/jpeg")},
            "description": what,
        }
    }
    answers |= {status: {"model": schemas.Problem, "description": words} for status, words in _PROBLEMS.items()}
    app.add_api_route(
        f"/v1/{task}",
        handle,
        methods=["POST"],
        response_model=None,
        summary=what,
        responses=answers,
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}},
        name=task,
    )


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", summary="What is served.")
    async def models() -> list[schemas.ModelInfo]:
        return [
            schemas.ModelInfo(
                name=served.name,
                task=served.task,
                knows={
                    name: list(getattr(served.model.config, name))
                    for name in ("classes", "scenes")
                    if hasattr(served.model.config, name)
                },
                size_px=served.model.config.fit.size_px,
                is_miniature=served.is_miniature,
                licence=served.model.config.licence,
            )
            for served in service.models
        ]

    @app.get("/healthz", summary="Whether the service takes requests.", responses={503: {"model": schemas.Health}})
    async def healthz() -> JSONResponse:
        health = schemas.Health(
            status="stopping" if service.engine.is_stopping else "ok", waiting=service.engine.waiting
        )
        return JSONResponse(health.model_dump(), status_code=503 if service.engine.is_stopping else 200)

    @app.get("/metrics", summary="What the service counts, for Prometheus.", response_class=Response)
    async def metrics() -> Response:
        return Response(service.counters.text(), media_type=CONTENT_TYPE)


async def _handle(service: Service, task: str, asked_type: type[schemas.Request], request: HttpRequest) -> Response:
    settings = service.settings
    try:
        with service.engine.place():
            upload = await read_upload(request, most_bytes=settings.most_bytes, timeout_s=settings.timeout_s)
            asked: Any = asked_type.model_validate(upload.words)
            if asked.format == "ply" and asked.fov_deg is None:
                raise UsageError("format=ply needs fov_deg, the camera's field of view in degrees, such as fov_deg=65.")
            served = service.find(task, asked.model)
            waiting = await run_in_threadpool(service.ask, served, upload.content, asked.words(), size=asked.size)
            del upload
            answered = await _result(waiting, request, settings.timeout_s)
            return await run_in_threadpool(_response, answered, served.name, asked)
    except ClientDisconnect:
        return Response(status_code=GONE)
    except BusyError as error:
        status = 503 if service.engine.is_stopping else 429
        return _problem(status, str(error), {"Retry-After": str(error.retry_after_s)})
    except UploadError as error:
        return _problem(error.status, str(error))
    except ValidationError as error:
        return _problem(422, "; ".join(map(str, wrong_fields(error)))[:2000])
    except UnknownModelError as error:
        return _problem(404, str(error))
    except TooLargeError as error:
        return _problem(413, str(error))
    except OutputError as error:
        return _problem(500, str(error))
    except UsageError as error:
        return _problem(422, str(error))
    except TimeoutError:
        return _problem(504, f"There was no answer within {settings.timeout_s:g} s.", {"Retry-After": "10"})
    except Exception:  # the caller learns no inner workings
        logger.exception("A request for %s failed.", task)
        return _problem(500, "The prediction failed; the service's log says why.")


async def _result(waiting: Future[Answered], request: HttpRequest, timeout_s: float) -> Answered:
    """The answer, as long as the caller waits for it.

    Raises:
        TimeoutError: If it takes too long.
        ClientDisconnect: If the caller is gone.
    """
    answer = asyncio.wrap_future(waiting)
    gone = asyncio.ensure_future(_gone(request))
    try:
        either: set[asyncio.Future[Any]] = {answer, gone}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        if gone.done():
            raise ClientDisconnect
        raise TimeoutError
    finally:
        gone.cancel()
        if not answer.done():
            answer.cancel()  # and with it what waits, unless it runs


async def _gone(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response(answered: Answered, model: str, asked: Any) -> Response:
    if asked.format == "json":
        return JSONResponse(jsonable_encoder(as_answer(answered, model)))
    file = as_file(answered.prediction, asked.format, fov_deg=getattr(asked, "fov_deg", None))
    headers = {"Content-Disposition": f'inline; filename="{file.name}"', "X-Vpd-Model": _ascii(model)}
    if answered.notes:
        headers["X-Vpd-Notes"] = _ascii("; ".join(answered.notes))
    return Response(file.content, media_type=file.kind, headers=headers)


def _ascii(text: str) -> str:
    """A header's value."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)[:500]


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": message}, status_code=status, headers=headers)

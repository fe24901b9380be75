"""Requests with a picture: read into memory, never onto a disk, and no more of them than is allowed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

IMAGE_FIELD = "image"
_MOST_FIELDS, _MOST_FIELD_BYTES = 16, 64 * 1024
_BINARY = ("image/", "application/octet-stream")


class UploadError(Exception):
    """A request that is not as it must be.

    Args:
        status: HTTP status that says so.
        message: What is wrong, and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Upload:
    """What a request brought."""

    content: bytes
    """Of the picture's file."""
    words: dict[str, str]
    """Fields of the form and of the query; of both, the form's."""


async def read_upload(request: Request, *, most_bytes: int, timeout_s: float) -> Upload:
    """The picture and the words of a request: a form with the file `image`, or the file's bytes as the body.

    Args:
        request: Whose body was not read yet.
        most_bytes: Of the file.
        timeout_s: Seconds that it may take to arrive.

    Raises:
        UploadError: If it is something else, too large, or too slow.
    """
    kind = request.headers.get("content-type", "").lower()
    words = dict(request.query_params)
    try:
        async with asyncio.timeout(timeout_s):
            if kind.startswith("multipart/form-data"):
                content, fields = await _read_form(request, most_bytes)
                words |= fields
            elif kind.startswith(_BINARY):
                content = await request.body()
            else:
                raise UploadError(
                    415,
                    f"The body is {kind.split(';')[0][:60] or 'of no type'}; send a form (multipart/form-data) with "
                    f"the file {IMAGE_FIELD!r}, or the file's bytes as image/jpeg, image/png, ...",
                )
    except TimeoutError:
        raise UploadError(408, f"The request took more than {timeout_s:g} s to arrive.") from None
    if not content:
        raise UploadError(422, "The picture's file is empty.")
    return Upload(content, words)


async def _read_form(request: Request, most_bytes: int) -> tuple[bytes, dict[str, str]]:
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=_MOST_FIELDS,
        max_part_size=_MOST_FIELD_BYTES,
    )
    parser.spool_max_size = most_bytes + 1  # beyond it a file on disk would be begun
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise UploadError(400, f"The form cannot be read: {error.message}") from None
    except (KeyError, ValueError, AssertionError) as error:  # of headers that are no headers
        raise UploadError(400, f"The form cannot be read ({type(error).__name__}).") from None
    try:
        image = form.get(IMAGE_FIELD)
        if not isinstance(image, UploadFile):
            raise UploadError(422, f"The form has no file called {IMAGE_FIELD!r}: curl -F {IMAGE_FIELD}=@photo.jpg ...")
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        return await image.read(), fields
    finally:
        await form.close()

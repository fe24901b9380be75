"""What a user's word for a clip means: a video, an animation, numbered pictures, a camera, an address."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

from vpd.errors import UsageError
from vpd.files.find_images import ANIMATION_SUFFIXES, VIDEO_SUFFIXES, absolute, find_images, searched_folder
from vpd.inference.inputs import read_source
from vpd.video.containers import Container
from vpd.video.frames import DEFAULT_FPS, Clip
from vpd.video.pictures import Animation, Pictures, is_animation, is_numbered, numbered_files

_ADDRESS = re.compile(r"(https?|rtsps?|rtmp[st]?|rtp|udp|tcp|srt)://", re.IGNORECASE)
_CAMERA = re.compile(r"webcam(:(.+))?", re.IGNORECASE)
_DEVICE = re.compile(r"/dev/video\d+")


def is_address(source: str) -> bool:
    """Whether a word is the address of a stream: the only kind for which the network is used."""
    return bool(_ADDRESS.match(source))


def is_camera(source: str) -> bool:
    """Whether a word means a camera: `webcam`, `webcam:1`, `webcam:NAME` or `/dev/video0`."""
    return bool(_CAMERA.fullmatch(source) and not Path(source).exists()) or bool(_DEVICE.fullmatch(source))


def is_clip(source: str) -> bool:
    """Whether a word means a clip or stream, by itself; a folder or pattern of pictures does not."""
    if is_address(source) or is_camera(source) or is_numbered(source):
        return True
    suffix = Path(source).suffix.lower()
    if Path(source).is_dir():
        return False
    return suffix in VIDEO_SUFFIXES or suffix in ANIMATION_SUFFIXES or (suffix == ".webp" and is_animation(source))


def clip_name(source: str) -> str:
    """What to call a clip's outputs, without a suffix."""
    if is_address(source):
        address = re.sub(r"^\w+://([^/@]*@)?", "", source).partition("?")[0]  # what may be secret stays out
        return re.sub(r"[^\w.-]+", "_", address).strip("._")[:100] or "stream"
    if is_camera(source):
        return re.sub(r"[^\w.-]+", "_", source).strip("._")[:100]
    if is_numbered(source):
        return re.sub(r"[-_. ]*%0?\d*d.*", "", Path(source).name) or Path(absolute(source)).parent.name
    folder = searched_folder(source)
    return Path(folder).name if folder else Path(source).stem


def shown_name(source: str) -> str:
    """What messages call a clip: the word itself, but for a password and what follows a question mark."""
    return re.sub(r"(?<=://)[^/@]*@", "", source).partition("?")[0] if is_address(source) else source


def clip_pictures(source: str, *, except_folder: str | Path | None = None) -> list[str]:
    """Pictures that are the frames of a clip, in their order.

    Args:
        source: Numbered pictures, or a folder or pattern.
        except_folder: An output folder; where it lies in a folder that is searched, what is in it is left out.

    Raises:
        UsageError: If there are none, or the folder that is searched is the output folder.
    """
    if is_numbered(source):
        return numbered_files(source)
    if except_folder is None:
        return find_images([source]).images
    root = _with_separator(searched_folder(source) or absolute(source))
    inside = _with_separator(absolute(except_folder))
    if inside == root:
        raise UsageError(f"{except_folder} holds the frames and cannot take the output as well. Give another --out.")
    images = find_images([source], except_folder=except_folder).images
    if inside.startswith(root):  # a pattern may also name what is in there file by file
        images = [image for image in images if not image.startswith(inside)]
        if not images:
            raise UsageError(f"All pictures of {source} are in the output folder {except_folder}. Give another --out.")
    return images


def open_clip(source: Any, *, fps: float | None = None, except_folder: str | Path | None = None) -> Clip:
    """A clip or stream that a word, or a program, means; to be used in a `with` block.

    Args:
        source: A video file; a GIF, WebP or PNG file of several frames; `frames/%06d.png`; a folder or pattern of
            pictures; the address of a stream (`rtsp://`, `http://`, ...); `webcam`, `webcam:1`. Or pictures in any form
            that `predict` takes, as a list or generator.
        fps: Frames a second, of what does not tell it; none = 25.
        except_folder: An output folder: what is in it is no frame.

    Raises:
        UsageError: If there is no such clip, or it cannot be opened.
    """
    if fps is not None and not 0.01 <= fps <= 1000:
        raise UsageError(f"fps={fps}: give frames a second, from 0.01 to 1000.")
    rate = fps or DEFAULT_FPS
    if isinstance(source, os.PathLike):
        source = os.fsdecode(source)
    if not isinstance(source, str):
        if not isinstance(source, Iterable) or isinstance(source, (bytes, bytearray, memoryview, Mapping, Set)):
            raise UsageError(
                f"A clip is a video file, a folder or list of pictures, an address or webcam; got {type(source)}."
            )
        return Pictures(source, "clip", read=lambda picture: read_source(picture, "a picture"), fps=rate)
    if is_address(source):
        return Container(source, shown_name(source), is_address=True)
    if is_camera(source):
        return Container(_device(source), source, is_camera=True)
    if is_numbered(source) or searched_folder(source) is not None:
        return Pictures(clip_pictures(source, except_folder=except_folder), source, fps=rate)
    if is_animation(source):
        return Animation(source, source)
    return Container(absolute(source), source)


def _with_separator(folder: str) -> str:
    """The folder so that whatever begins with it lies inside."""
    return folder if folder.endswith(os.sep) else folder + os.sep


def _device(source: str) -> str:
    """What the system calls a camera."""
    match = _CAMERA.fullmatch(source)
    told = match[2] if match and match[2] else "0" if match else source
    if told.isdecimal():
        return f"/dev/video{told}" if os.name == "posix" and os.uname().sysname == "Linux" else told
    return told if os.name != "nt" or told.startswith("video=") else f"video={told}"

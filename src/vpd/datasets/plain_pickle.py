"""Pickles read as plain data: nothing that they name is imported, and nothing in them runs."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

from vpd.errors import UsageError

_STRUCT_CODES = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip
"""NumPy's name of each type of number -> that of Python's `struct`."""


def read_plain_pickle(path: Path) -> Any:
    """Content of a pickle that holds nothing but lists, dictionaries, numbers and text; no code can run.

    NumPy's single numbers (`numpy.int64(7)`) become Python's.

    Raises:
        UsageError: If the file is missing, is no pickle, or names any class or function.
    """

    class PlainUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
                return _Scalar()
            if (module, name) == ("numpy", "dtype"):
                return _Type()
            if (module, name) == ("_codecs", "encode"):  # how old protocols write bytes
                return _Bytes()
            hint = ": turn it into plain numbers and lists, with int(...) or .tolist()" if "numpy" in module else ""
            raise UsageError(f"{path}: refused, the pickle holds code ({module}.{name}){hint}; only plain data is read")

        def persistent_load(self, pid: Any) -> Any:
            raise UsageError(f"{path}: refused, the pickle points outside itself; only plain data is read")

    try:
        with path.open("rb") as file:  # written by Python 2: text is bytes, not always UTF-8
            return PlainUnpickler(file, encoding="utf-8", errors="surrogateescape").load()
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle raises every kind of exception
        raise UsageError(f"{path}: not a whole pickle ({type(error).__name__})") from error


class _Type:
    """Stands for `numpy.dtype`; calling it gives a type, of a single number and nothing else."""

    __slots__ = ("code", "order")
    code: str
    order: str

    def __call__(self, code: str, align: bool = False, copy: bool = True) -> _Type:
        made = _Type()
        made.code, made.order = _STRUCT_CODES[code], "="
        return made

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, order, *rest = state
        if version != 3 or order not in ("<", ">", "|", "=") or rest[:3] != [None, None, None]:
            raise ValueError("no type of a single number")
        self.order = "=" if order == "|" else order


class _Scalar:
    """Stands for NumPy's function that makes single numbers; calling it gives Python's."""

    __slots__ = ()

    def __call__(self, kind: _Type, content: bytes | str) -> int | float | bool:
        # a byte string of Python 2 has become text
        packed = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        (value,) = struct.unpack(kind.order + kind.code, packed)
        return value


class _Bytes:
    """Stands for `_codecs.encode`, which turns characters into the bytes of their numbers."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise ValueError("bytes of another encoding")
        return text.encode("latin1")

"""Whether the packages are there that a service needs."""

from __future__ import annotations

from importlib.util import find_spec

from vpd.errors import UsageError


def check_installed(*, with_page: bool) -> None:
    """Refuse to start without the packages that a service needs.

    Raises:
        UsageError: If one is missing.
    """
    needed = {"fastapi": "fastapi", "fastapi_offline": "fastapi-offline", "uvicorn": "uvicorn"}
    needed |= {"prometheus_client": "prometheus-client", "python_multipart": "python-multipart"}
    needed |= {"gradio": "gradio"} if with_page else {}
    if missing := [package for module, package in needed.items() if find_spec(module) is None]:
        extra = "app" if with_page else "serve"
        other = "; without the page, --no-page needs less" if missing == ["gradio"] else ""
        raise UsageError(f"vpd app needs {', '.join(missing)}: pip install 'vpd-perception[{extra}]'{other}.")

"""The documentation does what it says: its blocks are run; what cannot run here is at least made of words that exist.

A page is run by `make test-extras`; every block is looked at by `make test`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from block_check import commands_of, problems_of
from page_blocks import Block, Setup, pages, read_page, shown
from vpd_words import vpd_problem

RUNNER = Path(__file__).with_name("run_page.py")
TESTS = Path(__file__).parents[1]
OPTIONAL = ("av", "cv2", "gradio", "httpx", "onnx", "onnxruntime", "supervision")
"""Modules of extras that pages use by themselves."""


def blocks_of(page: Path) -> list[Block]:
    return [part for part in read_page(page.read_text(encoding="utf-8")) if isinstance(part, Block)]


def is_run(page: Path) -> bool:
    return any(not block.parsed_only for block in blocks_of(page))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What set-ups of several pages share."""
    return tmp_path_factory.mktemp("made")


def run_page(page: Path, folder: Path, made: Path) -> subprocess.CompletedProcess[str]:
    """A page run in a folder, without network."""
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    found = os.pathsep.join(filter(None, (str(TESTS / "docs"), str(TESTS), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PATH": programs, "PYTHONPATH": found, "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, RUNNER, page, made]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def missing_extra(errors: str) -> str | None:
    """What a page found missing, where it is one of the packages that are optional."""
    if told := re.search(r"^.*pip install '?vpd-perception\[[^\n]*$", errors, re.MULTILINE):
        return told[0]
    missing = re.search(r"^ModuleNotFoundError: No module named '(\w+)'", errors, re.MULTILINE)
    return missing[0] if missing and missing[1] in OPTIONAL else None


@pytest.mark.extras
@pytest.mark.parametrize("page", [page for page in pages() if is_run(page)], ids=shown)
def test_every_block_runs(page: Path, tmp_path: Path, made: Path) -> None:
    run = run_page(page, tmp_path, made)
    if run.returncode and (lacking := missing_extra(run.stderr)):
        pytest.skip(lacking)
    assert run.returncode == 0, f"{run.stdout[-3000:]}\n{run.stderr[-5000:]}"
    if page.name == "python.md":
        assert run.stderr == "", "no other package has a word to say"


@pytest.mark.parametrize("page", [page for page in pages() if blocks_of(page)], ids=shown)
def test_every_word_exists(page: Path) -> None:
    problems = [problem for block in blocks_of(page) for problem in problems_of(block)]
    assert not problems, "\n".join([shown(page), *problems])


def test_what_is_not_run_says_why() -> None:
    for page in pages():
        for part in read_page(page.read_text(encoding="utf-8")):
            assert isinstance(part, Setup) or part.parsed_only != "REASON", shown(page)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("predict segment photos --model m --out o --fast", None),
        ("predict segment photos --model m --out o --faster", "No such option"),
        ("predict segment photos --out o", "Missing option"),
        ("predict paint photos --model m --out o", "paint"),
        ("train segment --data d --model m --out o -s steps=3", None),
        ("train segment --data d --model m --out o -s stepps=3", "stepps"),
        ("train segment --data d --model m --out o -s data.options.claases=[a]", "claases"),
        ("train depth --data d --model m --out o -s model_options.head=fpn", "head"),
        ("train segment --config no-such --data d --out o", "no-such"),
        ("eval segment --model m --data d --fit window=3", "window"),
        ("data check folder d -s label_suffx=x", "label_suffx"),
        ("data cheque d", "cheque"),
    ],
)
def test_wrong_words_are_found(command: str, problem: str | None) -> None:
    found = vpd_problem(command.split())
    assert found is None if problem is None else problem in (found or "")


def test_commands_of_a_shell() -> None:
    code = (
        'export A="-s b=1"\ntime vpd train \\\n  $A  # words\nX=1 torchrun --nproc 2 -m vpd eval segment && make demo\n'
    )
    assert list(commands_of(code)) == [
        (1, ["export", "A=-s b=1"]),
        (2, ["vpd", "train", "$A"]),
        (4, ["vpd", "eval", "segment"]),
        (4, ["make", "demo"]),
    ]


@pytest.mark.parametrize(
    ("language", "code", "problem"),
    [
        ("python", "import vpd\nvpd.load('x')", None),
        ("python", "import vpd\nvpd.lode('x')", "line 8: vpd has no lode"),
        ("python", "from vpd.tensors import Bach", "Bach"),
        ("python", "import no_such_package", "no_such_package"),
        ("python", "x = = 1", "line 7"),
        ("bash", "if true", "syntax error"),
        ("bash", "pip install '.[no-extra]'", "no-extra"),
        ("bash", "make nothing", "nothing"),
        ("bash", "python benchmarks/serving.py --no-such", "--no-such"),
        ("bash", "python benchmarks/nothing.py", "nothing.py"),
        ("bash", "# a\nvpd inform x", "line 8"),
    ],
)
def test_what_does_not_exist_is_named_with_its_line(language: str, code: str, problem: str | None) -> None:
    found = problems_of(Block(language, code, 7))
    assert found == [] if problem is None else problem in "\n".join(found)


def test_marks_of_a_page() -> None:
    text = "<!-- setup: photos, run as a/b -->\n# T\n<!-- parsed only: a GPU -->\n```bash\nx\n```\n```text\ny\n```\n"
    assert list(read_page(text)) == [
        *(Setup("photos", ""), Setup("run", "a/b")),
        Block("bash", "x\n", 5, parsed_only="a GPU"),
    ]
    with pytest.raises(ValueError, match="right above a block"):
        list(read_page("<!-- parsed only: why -->\nwords\n```bash\nx\n```\n"))


def test_trainings_are_cut_and_all_else_is_run_as_it_stands(tmp_path: Path, made: Path) -> None:
    (tmp_path / "vpd").write_text('#!/bin/sh\necho "$@" >> told\n')
    (tmp_path / "vpd").chmod(0o755)
    code = 'PATH="$PWD:$PATH"\nvpd train depth --data "d e"  # words\nvpd data check train\n'
    (tmp_path / "page.md").write_text(f"<!-- steps: 3 -->\n```bash\n{code}```\n\n```bash\n{code}```\n")
    run = run_page(tmp_path / "page.md", tmp_path, made)
    assert run.returncode == 0, run.stderr
    cut, other, *as_it_stands = (tmp_path / "told").read_text().splitlines()
    assert cut == "train depth --data d e -s steps=3"
    assert as_it_stands == ["train depth --data d e", other] and other == "data check train"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```bash\nfalse\n```\n", "page.md, line 2"),
        ("# T\n\n```python\nvalue = 1\n```\n\n```python\nassert value == 2\n```\n", 'page.md", line 8'),
        ("<!-- setup: nothing -->\n", "no set-up 'nothing'"),
    ],
)
def test_a_page_that_fails_says_where(text: str, said: str, tmp_path: Path, made: Path) -> None:
    (tmp_path / "page.md").write_text(text)
    run = run_page(tmp_path / "page.md", tmp_path, made)
    assert run.returncode != 0
    assert said in run.stdout + run.stderr

"""Whether the words of a block exist, without running it: programs, options, settings, files, imports."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator

from page_blocks import ROOT, Block
from vpd_words import vpd_problem

STARTERS = ("nice", "sudo", "env", "time", "nohup", "exec")
"""Programs whose arguments are another command."""
CUT = "..."
"""Stands in pages for words that are left out."""
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?[^\n]*\n.*?^\s*\1$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def problems_of(block: Block) -> list[str]:
    """What of a block does not exist, each with its line of the page."""
    return list(_bash_problems(block) if block.language == "bash" else _python_problems(block))


def commands_of(code: str) -> Iterator[tuple[int, list[str]]]:
    """Line and words of each command, what programs are started by (`torchrun ... -m`) taken off.

    Variables that the code sets are filled in.
    """
    code = _HEREDOC.sub(lambda found: "\n" * found[0].count("\n"), code)
    variables: dict[str, str] = {}
    for line, text in _whole_lines(code):
        for name, value in variables.items():
            text = re.sub(rf"\${name}\b|\$\{{{name}\}}", lambda _, value=value: value, text)  # type: ignore[misc]
        split = shlex.shlex(text, posix=True, punctuation_chars=";&|<>()")
        split.whitespace_split = True
        words: list[str] = []
        for word in [*split, ";"]:
            if re.fullmatch(r"[;&|()]+", word):
                if words := _started(words, variables):
                    yield line, words
                words = []
            else:
                words.append(word)


def _whole_lines(code: str) -> Iterator[tuple[int, str]]:
    """Lines with those that go on behind a backslash or inside quotes as one, numbered from 1."""
    text, first = "", 0
    for number, line in enumerate(code.splitlines(), 1):
        first = first if text else number
        text += line
        if text.endswith("\\"):
            text = text[:-1]
            continue
        try:
            shlex.split(text, comments=True)
        except ValueError:  # a quotation goes on
            text += "\n"
            continue
        yield first, text
        text = ""


def _started(words: list[str], variables: dict[str, str]) -> list[str]:
    """The command that is meant, without what stands before it, and without redirections."""
    words = words[: words.index(">")] if ">" in words else words
    while words and (found := re.fullmatch(r"(\w+)=(.*)", words[0], re.DOTALL)):
        variables[found[1]] = found[2]
        words = words[1:]
    if words and words[0] in STARTERS:
        return _started(words[1:], variables)
    if words[:1] in (["torchrun"], ["python"]) and "vpd" in words and words[words.index("vpd") - 1] == "-m":
        return words[words.index("vpd") :]
    return words


def _bash_problems(block: Block) -> Iterator[str]:
    syntax = subprocess.run(["bash", "-n", "-c", block.code], capture_output=True, text=True, check=False)
    if syntax.returncode:
        yield f"line {block.line}: {syntax.stderr.strip()}"
        return
    for line, words in commands_of(block.code):
        if problem := _command_problem(words):
            yield f"line {block.line + line - 1}: {shlex.join(words)[:100]}: {problem}"


def _command_problem(words: list[str]) -> str | None:
    program, *rest = words
    if program == "vpd":
        return vpd_problem([word for word in rest if word != CUT], is_cut=CUT in rest)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return next((f"no target {word}" for word in rest if "=" not in word and word not in targets), None)
    if program == "pip" and rest[:1] == ["install"]:
        known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        named = [name for word in rest for name in re.findall(r"^(?:vpd-perception|\.)\[([\w,-]+)\]", word)]
        return next((f"no extra {name}" for part in named for name in part.split(",") if name not in known), None)
    if program in ("python", "sbatch"):
        script = next((word for word in rest if re.fullmatch(r"[\w/]+\.(py|sh)", word)), None)
        return _script_problem(script, rest) if script and "/" in script else None
    return None


def _script_problem(script: str, words: list[str]) -> str | None:
    """A script of the repository must be there, and its text know the options."""
    if not (ROOT / script).is_file():
        return f"no file {script}"
    text = (ROOT / script).read_text(encoding="utf-8")
    after = words[words.index(script) + 1 :]
    options = [word.split("=")[0] for word in after if re.match(r"--\w", word)]
    unknown = [word for word in options if word not in text and not re.search(rf"\b{_parameter(word)}\b", text)]
    return f"no option {', '.join(unknown)}" if unknown else None


def _parameter(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _python_problems(block: Block) -> Iterator[str]:
    try:
        tree = ast.parse(block.code)
    except SyntaxError as error:
        yield f"line {block.line + (error.lineno or 1) - 1}: {error.msg}"
        return
    for node in ast.walk(tree):
        line = block.line + getattr(node, "lineno", 1) - 1
        if isinstance(node, ast.Import):
            found = [_import_problem(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [_import_problem(node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vpd":
            found = [_import_problem("vpd", node.attr)]
        else:
            continue
        yield from (f"line {line}: {problem}" for problem in found if problem)


def _import_problem(module: str, name: str | None) -> str | None:
    top = module.split(".")[0]
    if importlib.util.find_spec(top) is None:
        required = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        return None if top.replace("_", "-") in _NAME.findall(required) else f"{top} is no requirement of this package"
    try:
        loaded = importlib.import_module(module)
        if name is not None and not hasattr(loaded, name):
            importlib.import_module(f"{module}.{name}")
    except ImportError as error:
        return f"{module}{f' has no {name}' if name else ''}: {error}"
    return None

"""From a file and an environment to a checked configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sidecar.config import environment, text
from sidecar.config.messages import Problems
from sidecar.config.schema import SentinelConfig
from sidecar.errors import ConfigError, Problem


def load(
    path: str | Path | None, environ: Mapping[str, str], *, need_watches: bool = True
) -> SentinelConfig:
    """The configuration in a YAML file, with the environment's settings over it.

    Args:
        path: the file; None for a configuration by environment variables only.
        environ: where ``SENTINEL_*`` and ``${VAR}`` are looked up.
        need_watches: whether a configuration without any is a problem; not where the command line
            names some.

    Raises:
        ConfigError: with every problem of the file and the environment at once.
    """
    given, problems = ({}, []) if path is None else text.parse(_read(Path(path)), environ)
    given, sources, beside = environment.apply(given, environ)
    problems += beside
    if need_watches and not given.get("watches"):
        problems.append(_NO_WATCHES)
    config = None
    try:
        config = TypeAdapter(SentinelConfig).validate_python(given)
    except ValidationError as error:
        # What could not be read has been said; that it is then not what it should be follows.
        unread = {problem.path for problem in problems}
        problems += [problem for problem in _found(error) if problem.path not in unread]
    if problems or config is None:
        raise ConfigError([_with_source(problem, sources) for problem in _unique(problems)])
    return config


_NO_WATCHES = Problem(
    "watches", "is empty: write at least one entry, such as '- metric: node_load1'"
)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > text.MOST_BYTES:
            limit = f"the file is larger than {text.MOST_BYTES >> 20} MiB"
            raise ConfigError([Problem("", limit)])
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = f"{str(path)!r} cannot be read: {error.strerror}"
        raise ConfigError([Problem("", reason)]) from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        reason = f"{str(path)!r} is not UTF-8 text: byte {error.start} is {byte:#04x}"
        raise ConfigError([Problem("", reason)]) from None


def _found(error: ValidationError) -> list[Problem]:
    found: list[Problem] = []
    for detail in error.errors():
        nested: Any = detail.get("ctx", {}).get("error")
        found += nested.problems if isinstance(nested, Problems) else []
    return found


def _unique(problems: list[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))


def _with_source(problem: Problem, sources: Mapping[str, str]) -> Problem:
    """Say which variable set a value that did not stand in the file."""
    path = problem.path
    while path and path not in sources:
        cut = max(path.rfind("."), path.rfind("["))
        path = path[:cut] if cut > 0 else ""
    if not path:
        return problem
    return Problem(problem.path, f"{problem.message} (set by {sources[path]})")

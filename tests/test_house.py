"""That the tree itself is as the design says: what no unit test of a part would notice."""

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.config import load
from sidecar.names import OUTPUT_SUFFIXES

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "deploy",
    "proto",
    "pyproject.toml",
    "sidecar",
    "tests",
}
# What tools and runs leave beside them; all of it is in .gitignore.
LEFTOVERS = {"build", "dist", "sentinel_artifacts", "sentinel_sidecar.egg-info", "__pycache__"}
COMMANDS = ("tests/run", "deploy/demo", ".ci/run")
# They run code when a file is loaded, or store what only the same version can read.
UNSAFE_TO_LOAD = {"pickle", "cPickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}


def sources(*folders: str) -> list[Path]:
    """Our Python files, without the generated ones."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if not path.stem.endswith("_pb2"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def strings(tree: ast.Module) -> Iterator[ast.Constant]:
    """String constants that are not docstrings (or other bare strings)."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def pyproject() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_top_level_holds_what_the_design_names_and_nothing_else() -> None:
    visible = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert visible - LEFTOVERS == TOP_LEVEL


def test_leftovers_are_ignored_by_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"/.venv/", "__pycache__/", "*.egg-info/", "/dist/", "/build/"} <= set(ignored)


def test_nothing_is_loaded_by_a_format_that_can_run_code() -> None:
    unsafe = []
    for path in sources("sidecar", "deploy"):
        tree = parsed(path)
        unsafe += [
            f"{relative(path)} imports {name}"
            for name in imports(tree)
            if name.partition(".")[0] in UNSAFE_TO_LOAD
        ]
        unsafe += [
            f"{relative(path)}:{node.value.lineno} allows pickles"
            for node in ast.walk(tree)
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle"
            if not (isinstance(node.value, ast.Constant) and node.value.value is False)
        ]
    assert unsafe == []


def test_output_names_are_spelled_in_one_module_only() -> None:
    spelled = [
        f"{relative(path)}:{node.lineno}"
        for path in sources("sidecar")
        if path.name != "names.py"
        for node in strings(parsed(path))
        if str(node.value).endswith(OUTPUT_SUFFIXES)
    ]
    assert spelled == []


def test_nothing_is_left_for_later() -> None:
    left = [
        f"{relative(path)}: {word}"
        for path in sources("sidecar", "deploy")
        for word in re.findall(
            r"\b(?:TODO|FIXME|XXX|HACK)\b|NotImplementedError", path.read_text(encoding="utf-8")
        )
    ]
    assert left == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_can_be_run(command: str) -> None:
    path = ROOT / command
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", path], check=True)


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    ci = (ROOT / ".ci/run").read_text()
    assert "./tests/run" in ci
    assert "./deploy/demo --once" in ci
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()


def test_every_dependency_of_program_and_tests_is_pinned() -> None:
    def name(requirement: object) -> str:
        return re.split(r"[^\w.-]", str(requirement))[0].lower().replace("_", "-")

    pins = (ROOT / "deploy/constraints.txt").read_text().splitlines()
    pinned = {name(line) for line in pins if not line.startswith("#")}
    data = pyproject()
    project, groups = data["project"], data["dependency-groups"]
    assert isinstance(project, dict)
    assert isinstance(groups, dict)
    wanted = {name(one) for one in (*project["dependencies"], *groups["test"])}
    assert wanted - pinned == set()


def test_the_example_configuration_is_valid() -> None:
    config = load(ROOT / "deploy/sentinel.example.yml", {})
    assert {watch.metric for watch in config.watches} == {
        "demo_active_users",
        "demo_requests_total",
        "demo_disk_used_bytes",
        "demo_temperature_celsius",
    }
    assert config.emitter_host == "127.0.0.1"

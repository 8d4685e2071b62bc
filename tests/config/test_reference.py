"""That README.md's configuration reference and the schema name the same settings and defaults."""

import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest

from sidecar.config import (
    AnomalyConfig,
    Authorization,
    BasicAuth,
    OAuth2,
    PublishConfig,
    RemoteReadConfig,
    RemoteWriteConfig,
    SentinelConfig,
    TlsConfig,
    WatchConfig,
    WatchPublish,
    load,
)
from sidecar.config.http import HttpHeader

README = Path(__file__).parents[2] / "README.md"
SECTIONS = [
    SentinelConfig, WatchConfig, AnomalyConfig, PublishConfig, WatchPublish, RemoteReadConfig,
    RemoteWriteConfig,
    BasicAuth, Authorization, OAuth2, TlsConfig, HttpHeader,
]  # fmt: skip
TABLES = {
    "Top level": SentinelConfig,
    "`watches`": WatchConfig,
    "`publish`": PublishConfig,
    "`anomaly`": AnomalyConfig,
}
ROW = re.compile(r"^\| (?P<names>`[^|]+`) \|(?P<default>[^|]*)\|", re.MULTILINE)


def reference() -> str:
    """The README from its heading "Configuration" to the next one of the same rank."""
    text = README.read_text()
    start = text.index("\n## Configuration\n")
    end = text.find("\n## ", start + 1)
    return text[start : end if end > 0 else None]


def rows(heading: str) -> dict[str, str]:
    """The settings of one table, and what stands under "Default"."""
    part = reference().partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    return {
        name: row["default"].strip()
        for row in ROW.finditer(part)
        for name in re.findall(r"`([^`]+)`", row["names"])
    }


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_in_the_reference(section: type[Any]) -> None:
    named = set(re.findall(r"`([a-z_0-9]+)`", reference()))
    assert {one.name for one in fields(section)} <= named


@pytest.mark.parametrize("heading", TABLES)
def test_every_row_of_a_table_is_a_setting(heading: str) -> None:
    assert set(rows(heading)) == {one.name for one in fields(TABLES[heading])}


@pytest.mark.parametrize("heading", TABLES)
def test_the_defaults_are_those_of_the_schema(heading: str) -> None:
    shown = rows(heading)
    for one in fields(TABLES[heading]):
        default = written(one)
        if default is not None:
            assert shown[one.name] == f"`{default}`", one.name


def written(setting: Field[Any]) -> str | None:
    """A default as YAML has it; None where there is no plain one."""
    if callable(setting.default_factory):
        value = setting.default_factory()
        return "{}" if value == {} else None
    value = setting.default
    if value is None or value is MISSING or setting.name in ("metric", "watches"):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return "[]" if value == () else str(value)


def test_the_smallest_example_loads(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", reference(), re.DOTALL)
    assert example is not None
    path = tmp_path / "sentinel.yml"
    path.write_text(example[1])
    assert [watch.metric for watch in load(path, {}).watches] == ["node_load1"]

"""What stands in the way of a command before it has begun, said so that it can be mended."""

from pathlib import Path

import pytest

from sidecar.cli import main


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a configuration, and an environment without one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SENTINEL_CONFIG", raising=False)
    return tmp_path


@pytest.mark.parametrize("command", ["run", "check", "once", "backtest"])
def test_with_nothing_to_watch_it_says_where_it_looked_and_what_to_write(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "there is no ./sentinel.yml here" in line
    assert "--watch 'node_load1" in line


def test_a_file_without_watches_is_told_about_the_file(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nowhere / "sentinel.yml").write_text("emitter_port: 8080\n")
    assert main(["run"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "sentinel: sentinel.yml cannot be used:"
    assert second.startswith("watches: is empty: write at least one entry")


@pytest.mark.parametrize(
    ("selector", "hint"), [("rate(foo[5m])", True), ("sum(x)", True), ("x{", False)]
)
def test_an_expression_is_pointed_to_where_it_belongs(
    selector: str, hint: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--watch", selector]) == 2
    assert ("with expr and name in place of metric" in capsys.readouterr().err) == hint


def test_a_wrong_web_config_file_is_named_above_what_is_wrong(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nowhere / "web.yml").write_text("basic_auth_users: {a: secret}\ntls: {}\n")
    settings = "web_config_file: web.yml\nemitter_port: 0\nwatches: [{metric: x}]\n"
    (nowhere / "sentinel.yml").write_text(settings)
    assert main(["run"]) == 2
    head, *problems = capsys.readouterr().err.splitlines()
    assert head == "sentinel: web.yml cannot be used:"
    assert [line.split(":")[0] for line in problems] == ["tls", "basic_auth_users.a"]

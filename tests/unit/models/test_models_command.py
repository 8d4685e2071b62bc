"""``sentinel models``: what a user reads of the models, and that README agrees."""

import re
from pathlib import Path

import pytest

from sidecar.cli import main
from sidecar.models.registry import ALIASES, MODEL_NAMES, PROFILE, defaults, describe, summary

README = (Path(__file__).parents[3] / "README.md").read_text()
EVERY = [*MODEL_NAMES, *ALIASES, PROFILE]


def test_without_a_name_every_model_is_listed_with_what_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    for name in (*MODEL_NAMES, PROFILE):
        assert re.search(rf"^{name}\b.*{summary(name).split()[0]}", shown, re.MULTILINE)
    assert "(holt)" in shown
    assert "A watch takes auto unless it names another" in shown
    assert max(map(len, shown.splitlines())) <= 90


@pytest.mark.parametrize("name", EVERY)
def test_with_a_name_all_that_the_model_says_of_itself_is_printed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", name]) == 0
    shown = capsys.readouterr().out
    assert describe(name).replace("``", "") in shown
    for setting in defaults(name):
        assert f"\n  {setting}: " in shown
    assert ("sentinel models seasonal" in shown) == (
        name not in ("naive", "seasonal_naive", "zscore", PROFILE)
    )


def test_defaults_are_written_as_in_the_file_and_the_watchs_are_said_to_be_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["models", "lags"])
    shown = capsys.readouterr().out
    for line in ("means: [24, 72, 288]", "online: false", "season: auto", "timezone: the watch's"):
        assert f"\n  {line}\n" in shown


def test_it_needs_no_configuration_and_is_not_stopped_by_a_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sentinel.yml").write_text("watches: 3\n")
    assert main(["models", "auto"]) == 0
    assert "back-test" in capsys.readouterr().out


def test_a_name_that_is_none_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "lag"]) == 2
    assert "'lag' is not a model, did you mean 'lags'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*MODEL_NAMES, PROFILE])
def test_each_model_says_when_to_take_it_its_settings_its_source_and_its_figures(name: str) -> None:
    text = describe(name)
    assert re.search(r"\b[Tt]ake (it|them)\b|It pays", text)
    assert "Settings" in text
    assert "Measured" in text
    assert re.search(r"\b(19|20)\d\d\b|Hyndman|Haykin|simplest", text)
    for setting in defaults(name):
        assert f"``{setting}``" in text or setting in ("granularity_ms", "season", "timezone")


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_readme_sums_the_model_up(name: str) -> None:
    assert re.search(rf"^\| `{name}`.*\|.*\| [\d.]+ \|", README, re.MULTILINE)


def test_readme_lists_no_model_that_is_not_there() -> None:
    table = README.partition("### Models")[2].partition("\n### ")[0].partition("\n## ")[0]
    listed = re.findall(r"^\| `([a-z_]+)`", table, re.MULTILINE)
    assert sorted(listed) == sorted(MODEL_NAMES)

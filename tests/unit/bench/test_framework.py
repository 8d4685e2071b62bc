import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import bench
from tests.bench import Figure, Rounds, Skipped, cpu_rate, figures, row
from tests.bench.__main__ import choose, main, run

OPTIONS = Namespace(rounds=3)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, bench.Bench]:
    """A registry of our own; rows that other tests register do not stay."""
    own: dict[str, bench.Bench] = {}
    monkeypatch.setattr(bench, "REGISTRY", own)
    monkeypatch.setattr("tests.bench.__main__.REGISTRY", own)
    monkeypatch.setattr("tests.bench.__main__.load_modules", list)
    return own


def test_rounds_are_interleaved_and_the_first_does_not_count() -> None:
    calls = []
    values = iter([100.0, 4.0, 6.0, 2.0])

    def measure() -> float:
        calls.append("value")
        return next(values)

    def reference() -> float:
        calls.append("reference")
        return 2.0

    @row("speed", unit="m/s", reference="walking")
    def speed(options: Namespace) -> Rounds:
        return Rounds(measure, reference)

    (figure,) = bench.REGISTRY["speed"].run(OPTIONS)
    assert calls == ["value", "reference"] * 4
    assert figure == Figure("speed", 4.0, "m/s", "walking", 2.0, 2.0, 6.0)


def test_rows_are_written_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @row("speed", unit="m/s")
    def speed(options: Namespace) -> Rounds:
        return Rounds(lambda: 3.0)

    @figures("errors")
    def errors(options: Namespace) -> Iterator[Figure]:
        yield Figure("error_naive", 1.5, "MASE", "seasonal_naive", 1.2)

    target = tmp_path / "rows.json"
    assert main(["--json", str(target), "--rounds", "2"]) == 0
    assert json.loads(target.read_text(encoding="utf-8")) == [
        {"name": "speed", "value": 3.0, "unit": "m/s", "reference": None, "ratio": None},
        {
            "name": "error_naive",
            "value": 1.5,
            "unit": "MASE",
            "reference": "seasonal_naive",
            "ratio": 1.2,
        },
    ]
    printed = capsys.readouterr().out
    assert "error_naive" in printed
    assert "1.2x" in printed


def test_a_row_that_cannot_run_here_is_named_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @figures("errors")
    def errors(options: Namespace) -> Iterator[Figure]:
        yield Figure("first", 1.0, "s")
        raise Skipped("no data here")

    assert [figure.name for figure in run(bench.REGISTRY["errors"], OPTIONS)] == ["first"]
    assert "errors                       skipped: no data here" in capsys.readouterr().out


def test_a_name_means_a_row_or_all_rows_of_a_module() -> None:
    @figures("one")
    def one(options: Namespace) -> Iterator[Figure]:
        yield Figure("one", 1.0, "s")

    @figures("two")
    def two(options: Namespace) -> Iterator[Figure]:
        yield Figure("two", 2.0, "s")

    module = bench.REGISTRY["one"].module
    assert [each.name for each in choose(["two"], [module])] == ["two"]
    assert [each.name for each in choose([module], [module])] == ["one", "two"]
    assert [each.name for each in choose([], [module])] == ["one", "two"]
    with pytest.raises(SystemExit, match="no bench is called three"):
        choose(["three"], [module])


def test_two_rows_of_one_name_are_refused() -> None:
    @figures("one")
    def one(options: Namespace) -> Iterator[Figure]:
        yield Figure("one", 1.0, "s")

    with pytest.raises(ValueError, match="two benches are called 'one'"):
        figures("one")(one)


def test_a_rate_is_the_amount_by_the_time() -> None:
    assert cpu_rate(1.0, lambda: sum(range(100_000)))() > 0

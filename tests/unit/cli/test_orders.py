"""Orders name series by equality; what is kept is asked for page by page."""

import urllib.parse
from collections.abc import Mapping
from typing import Any

import pytest

from sidecar.cli import main, orders
from sidecar.cli.client import Client


@pytest.mark.parametrize("verb", list(orders.ORDERS))
def test_an_order_with_a_regular_expression_reaches_nobody(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(orders, "asked", lambda *_: pytest.fail("nobody is to be asked"))
    assert main([verb, 'x{job=~"a.*", instance="i"}']) == 2
    assert "job=~\"a.*\": an order names label values: only '=' is taken" in capsys.readouterr().err


def test_what_is_kept_is_put_together_from_pages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_for: list[dict[str, list[str]]] = []

    def asked(_: Client, path: str, order: Mapping[str, Any] | None = None) -> Any:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
        asked_for.append(query)
        offset = int(query["offset"][0])
        entry = {"series": f"x{offset}", "at_ms": 0, "who": "cron", "what": "promote"}
        page = {"next_offset": offset + 100 if offset < 200 else None}
        return {"status": "success", "data": [entry], "page": page}

    monkeypatch.setattr(orders, "asked", asked)
    assert main(["audit", 'x{limit="3", job=~"a.*"}']) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ["x0", "x100", "x200"]
    assert asked_for[0] == {"match[]": ['x{limit="3", job=~"a.*"}'], "offset": ["0"]}


@pytest.mark.parametrize(
    ("verb", "done", "said"),
    [
        ("retrain", (1, None), "fit ordered, v1 serves until then; `sentinel audit '{}'` shows"),
        ("pin", (1, None), "pinned at v1"),
        ("unpin", (1, None), "unpinned, v1 serves"),
        ("rollback", (3, 2), "v3 -> v2"),
    ],
)
def test_an_order_says_what_it_did(
    verb: str,
    done: tuple[int, int | None],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    series = 'x{job="a b"}'
    one = {"series": series, "from_version": done[0], "to_version": done[1], "error": ""}
    monkeypatch.setattr(orders, "asked", lambda *_: {"status": "success", "data": [one]})
    assert main([verb, series]) == 0
    assert f"{series}: {said.format(series)}" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "sent"), [("v2", 2), ("2", 2), ("v12", 12)])
def test_a_version_is_written_with_or_without_its_v(
    given: str, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders_given: list[Any] = []

    def asked(_: Client, path: str, order: Mapping[str, Any]) -> Any:
        orders_given.append((path, order))
        return {"status": "success", "data": []}

    monkeypatch.setattr(orders, "asked", asked)
    assert main(["rollback", "x", "--to", given]) == 0
    [(_, order)] = orders_given
    assert order["to_version"] == sent


@pytest.mark.parametrize("given", ["0", "v", "two", "-1", "v2.5"])
def test_what_is_no_version_is_said(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["rollback", "x", f"--to={given}"])
    assert caught.value.code == 2
    assert "is no version: write v3 or 3" in capsys.readouterr().err


def test_what_the_sidecar_refuses_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"status": "error", "error": "not now"}
    monkeypatch.setattr(orders, "asked", lambda *_: answer)
    assert main(["versions", "x"]) == 1
    assert "not now" in capsys.readouterr().err

"""Orders to the running sidecar, and what it has kept of series."""

import argparse
import json
import shlex
import sys
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sidecar.cli.client import Client, asked, client
from sidecar.cli.status_codes import EXIT_FAILED, EXIT_OK
from sidecar.config import SentinelConfig, WatchConfig
from sidecar.errors import ConfigError, Problem, SidecarError

ORDERS: Final = ("retrain", "rollback", "promote", "pin", "unpin")
QUESTIONS: Final = ("versions", "audit")


def question(config: SentinelConfig, options: argparse.Namespace) -> int:
    """What is kept of series: their versions, or their changes."""
    watch = WatchConfig.from_selector(options.series)
    at = getattr(options, "at", None)
    found = kept(
        client(config, options),
        options.verb,
        str(watch.selector),
        {} if at is None else {"time": at},
    )
    if options.json:
        print(json.dumps(found, indent=2))
    for one in () if options.json else found:
        if at is not None:
            line = f"v{one['version']}" if one["version"] else "no version served then"
        else:
            line = version_line(one) if options.verb == "versions" else change_line(one)
        print(f"{one['series']}: {line}")
    if not found:
        print(f"sentinel: nothing is kept of {watch.selector}", file=sys.stderr)
    return EXIT_OK if found else EXIT_FAILED


def kept(
    sidecar: Client, verb: str, selector: str, more: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The versions or the changes of all series that are selected, page by page."""
    found: list[dict[str, Any]] = []
    offset: int | None = 0
    while offset is not None:
        query = urllib.parse.urlencode({"match[]": selector, "offset": offset, **more})
        answer = asked(sidecar, f"/api/v1/models/{verb}?{query}")
        if answer.get("status") != "success":
            raise SidecarError(str(answer.get("error", "the sidecar gave no answer")))
        found += answer["data"]
        offset = answer["page"]["next_offset"]
    return found


def order(config: SentinelConfig, options: argparse.Namespace) -> int:
    """Give an order to the running sidecar, and say of each series what was done."""
    watch = WatchConfig.from_selector(options.series)
    if watch.matchers:
        raise ConfigError(
            [Problem(str(watch.matchers[0]), "an order names label values: only '=' is taken")]
        )
    given: dict[str, Any] = {"metric": watch.metric, "labels": dict(watch.labels)}
    if getattr(options, "to", None) is not None:
        given["to_version" if options.verb == "rollback" else "version"] = options.to
    if getattr(options, "no_pin", False):
        given["pin"] = False
    answer = asked(client(config, options), f"/api/v1/models/{options.verb}", given)
    for one in answer.get("data", ()):
        print(f"{one['series']}: {one['error'] or outcome(options.verb, one)}")
    if "error" in answer:
        print(f"sentinel: {answer['error']}", file=sys.stderr)
    return EXIT_OK if answer.get("status") == "success" else EXIT_FAILED


def outcome(verb: str, done: Mapping[str, Any]) -> str:
    """What an order has done to a series, in a few words."""
    before = f"v{done['from_version']}" if done["from_version"] else "no version"
    match verb:
        case "retrain":
            asking = f"sentinel audit {shlex.quote(done['series'])}"
            return f"fit ordered, {before} serves until then; `{asking}` shows what came of it"
        case "pin":
            return f"pinned at {before}"
        case "unpin":
            return f"unpinned, {before} serves"
        case _:
            return f"{before} -> v{done['to_version']}" if done["to_version"] else before


def version(text: str) -> int:
    """The number of a version, written as everywhere or bare.

    >>> version("v3"), version("3")
    (3, 3)
    """
    number = text.removeprefix("v")
    if not number.isdecimal() or not int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is no version: write v3 or 3")
    return int(number)


def change_line(entry: Mapping[str, Any]) -> str:
    at = _utc(entry["at_ms"])
    versions = [f"v{entry[key]}" for key in ("from_version", "to_version") if entry.get(key)]
    return f"{at} {entry['who']}: {entry['what']} {' -> '.join(versions)}".rstrip()


def version_line(record: Mapping[str, Any]) -> str:
    """A version: what it is, when and why it was fitted, and how well it did then."""
    mae = "" if record["mae"] is None else f", MAE {record['mae']:.4g}"
    moved = "" if record["drift"] is None else f" at {record['drift']:.2g}x its error"
    return (
        f"v{record['version']} {record['status']}: {record['model']} {record['policy']} for "
        f"{record['cause']}{moved}, {record['gate']}{mae}, {record['n_samples']} samples, "
        f"{_utc(record['trained_at_ms'])}"
    )


def _utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")

"""The types of single settings: what each accepts, and what it says when it does not.

Every check here raises ``BadValue`` with the whole message an operator reads after the path:
what was found, and what to write instead.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from croniter import croniter
from croniter.croniter import CroniterBadDateError
from pydantic import PlainValidator

from sidecar.config.matchers import LABEL_NAME, PLAIN_METRIC, parse_matcher, parse_selector
from sidecar.config.model_choice import check_model, check_model_class
from sidecar.duration import parse_duration_ms
from sidecar.names import METRIC_NAME, is_own_output
from sidecar.remote.settings import RESERVED_HEADERS, Secret

_THRESHOLD: Final = re.compile(r"\s*(?P<number>[0-9]*\.?[0-9]+)\s*(?P<unit>x|%)\s*")
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ENDPOINT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
# Any instant does: a schedule that cannot fire is one that never does. 2024 is a leap year.
_CRON_START: Final = datetime(2024, 1, 1, tzinfo=UTC)
_CRON_ALIASES: Final = (
    "@hourly",
    "@daily",
    "@midnight",
    "@weekly",
    "@monthly",
    "@yearly",
    "@annually",
)


class BadValue(ValueError):
    """A setting cannot be what was written; the message stands after the path."""


def threshold_parts(value: object) -> tuple[float, str]:
    """The number and the unit (``x``, ``%`` or nothing) of a drift threshold.

    >>> threshold_parts("1.5x"), threshold_parts(0.3)
    ((1.5, 'x'), (0.3, ''))

    Raises:
        BadValue: not one of the forms, or not above zero.
    """
    text = "" if isinstance(value, bool) else str(value)
    found = _THRESHOLD.fullmatch(text)
    number = float(found["number"]) if found else _number(text)
    if not 0 < number < math.inf:
        raise BadValue(
            f"{value!r} is not a drift threshold: write a multiple of the validation error such "
            "as '1.5x', a share of the level such as '10%', or an absolute error above 0"
        )
    return number, found["unit"] if found else ""


def _threshold(value: str | float) -> str | float:
    threshold_parts(value)
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _duration(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise BadValue(f"{value!r} has no unit: write it as a duration such as '{value:g}s'")
    if not isinstance(value, str):
        raise BadValue(f"{value!r} is not a duration: write text such as '1h30m' or '15s'")
    if re.fullmatch(r"[0-9]+", value) and value != "0":
        raise BadValue(f"{value!r} has no unit: write it as a duration such as '{value}s'")
    parse_duration_ms(value)
    return value


def _positive_duration(value: object) -> str:
    text = _duration(value)
    if parse_duration_ms(text) == 0:
        raise BadValue(f"{text!r} is no time at all: write a duration above 0 such as '1m'")
    return text


def _seconds(value: object) -> str | float:
    """A duration, or a bare number of seconds as users of sentinel-mlops write it."""
    if isinstance(value, bool):
        raise BadValue(f"{value!r} is not a duration: write text such as '10s'")
    number = _number(value) if isinstance(value, str) else value
    if isinstance(number, int | float) and not math.isnan(number):
        if not 0 < number <= 3600:
            raise BadValue(f"{value!r} is out of range: write seconds above 0, at most 3600")
        return number
    return _positive_duration(value)


def seconds_of(value: str | float) -> float:
    """Seconds of a checked ``Seconds`` value."""
    return parse_duration_ms(value) / 1000 if isinstance(value, str) else float(value)


def _cron(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue(f"{value!r} is not a cron schedule: write text such as '0 */6 * * *'")
    text = value.strip()
    if text.startswith("@"):
        if text not in _CRON_ALIASES:
            raise BadValue(f"{value!r} is not a cron schedule: use {', '.join(_CRON_ALIASES)}")
        return text
    if len(text.split()) != 5:
        raise BadValue(
            f"{value!r} has {len(text.split())} fields: a cron schedule has five, minute hour "
            "day-of-month month day-of-week, such as '0 */6 * * *'"
        )
    try:
        schedule = croniter(text, _CRON_START)
    except (ValueError, KeyError) as error:
        raise BadValue(
            f"{value!r} is not a cron schedule ({error}): write minute hour day-of-month month "
            "day-of-week, such as '0 */6 * * *'"
        ) from None
    try:
        schedule.get_next(datetime)
    except CroniterBadDateError:
        raise BadValue(
            f"{value!r} never fires, no such day exists: write a schedule such as '0 0 28 2 *'"
        ) from None
    return text


def check_url(value: object) -> str:
    """An absolute http or https URL without credentials in it."""
    if not isinstance(value, str):
        raise BadValue(f"{value!r} is not a URL: write text such as 'http://localhost:9090'")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise BadValue(f"{_without_userinfo(value)!r} is not a URL: {error}") from None
    if "@" in parts.netloc:
        raise BadValue(
            f"{_without_userinfo(value)!r} carries credentials: take them out and write them "
            "under 'basic_auth' of remote_read and remote_write"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise BadValue(
            f"{value!r} is not a URL of a server: write one such as 'http://localhost:9090'"
        )
    if parts.fragment or any(c.isspace() or ord(c) < 32 for c in value):
        raise BadValue(f"{value!r} has blanks or a '#' in it: write the bare URL")
    return value


def _without_userinfo(url: str) -> str:
    """The URL with everything before the last @ of its authority masked."""
    return re.sub(r"//[^/?#]*@", "//<secret>@", url)


def _metric(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue(f"{value!r} is not a metric's name: write text such as 'up'")
    if "{" in value:
        raise BadValue(f"{value!r} is a selector: {_as_settings(value)}")
    if "(" in value:
        raise BadValue(
            f"{value!r} is an expression, and metric takes one name: write it under 'expr', with "
            "a 'name' for its result"
        )
    if value and not PLAIN_METRIC.fullmatch(value):
        raise BadValue(
            f"{value!r} is not a metric's name: letters, digits, '_' and ':' only, not starting "
            "with a digit"
        )
    if is_own_output(value):
        raise BadValue(
            f"{value!r} is what Sentinel writes itself, which is never a source: name the metric "
            "it was made from"
        )
    return value


def _as_settings(selector: str) -> str:
    """What to write in place of a selector."""
    try:
        name, matchers = parse_selector(selector)
    except ValueError:
        return "write the bare name here, and conditions under 'labels' or 'matchers'"
    texts = ", ".join(f"'{matcher}'" for matcher in matchers)
    return f"write metric: {name}" + (f" and matchers: [{texts}]" if texts else "")


def _output_name(value: object) -> str:
    if not isinstance(value, str) or not PLAIN_METRIC.fullmatch(value):
        raise BadValue(
            f"{value!r} is not a metric's name: letters, digits, '_' and ':' only, not starting "
            "with a digit"
        )
    return value


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise BadValue(f"{value!r} is not a mapping: write label names and values, {{job: api}}")
    for name, text in value.items():
        if name == METRIC_NAME:
            raise BadValue(f"{name!r} is the metric's name: write it under 'metric'")
        if not isinstance(name, str) or not LABEL_NAME.fullmatch(name):
            raise BadValue(f"{name!r} is not a label's name: letters, digits and '_' only")
        if not isinstance(text, str):
            raise BadValue(f"{name} has the value {text!r}: a label's value is text, quote it")
        if text.startswith(("=~", "!~", "!=")):
            raise BadValue(
                f"{name} has the value {text!r}: labels are compared for equality; write "
                f"matchers: ['{name}{text[:2]}\"{text[2:]}\"'] instead"
            )
    return dict(value)


def _matchers(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise BadValue(f"{value!r} is not a list: write matchers as ['job=~\"api.*\"']")
    for one in value:
        parse_matcher(str(one))
    return tuple(str(one) for one in value)


def check_steps(value: object) -> Literal["auto"] | tuple[int, ...]:
    """The published leads: ``auto``, or whole numbers from 1, sorted."""
    if value == "auto":
        return "auto"
    steps = value if isinstance(value, Sequence) and not isinstance(value, str) else None
    numbers = [_whole(one) for one in steps] if steps is not None else []
    if not numbers or any(one is None or one < 1 for one in numbers):
        raise BadValue(
            f"{value!r} is not a list of steps: write 'auto', or whole numbers from 1 up to "
            "horizon / granularity, such as [1, 5]"
        )
    return tuple(sorted({one for one in numbers if one is not None}))


def check_clip(value: object) -> tuple[float | None, float | None]:
    """The range of published forecasts: two numbers or nulls, the first below the second."""
    ends = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    numbers = [None if end in _OPEN else _end(end) for end in ends]
    low, high = numbers if len(numbers) == 2 else (None, None)
    broken = any(
        number is None and end not in _OPEN for end, number in zip(ends, numbers, strict=True)
    )
    if len(ends) != 2 or broken or (low is not None and high is not None and low >= high):
        raise BadValue(
            f"{value!r} is not a range: write two numbers, the first below the second, such as "
            "[0, 100], or null for an open end: [0, null]"
        )
    return low, high


_OPEN: Final = (None, "null", "~", "")


def _end(value: object) -> float | None:
    number = _number(str(value)) if isinstance(value, int | float | str) else math.nan
    return number if math.isfinite(number) else None


def check_sides(value: object) -> float | tuple[float, float]:
    """One number from 0 up, or two: for below and above the expected value."""
    ends = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    numbers = [_end(end) for end in ends]
    sound = [number for number in numbers if number is not None and number >= 0]
    if len(sound) != len(ends) or len(ends) not in (1, 2):
        raise BadValue(
            f"{value!r} is not a deviation: write one number from 0 up, or two of them for below "
            "and above, such as [0, 5]"
        )
    return sound[0] if len(sound) == 1 else (sound[0], sound[1])


def sides(value: float | tuple[float, float]) -> tuple[float, float]:
    """For below and above."""
    return value if isinstance(value, tuple) else (value, value)


def _whole(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]+", value) else None


def _granularity(value: object) -> str:
    text = _positive_duration(value)
    if parse_duration_ms(text) < 1000:
        raise BadValue(f"{text!r} is too fine: write '1s' or more")
    return text


def _text(value: object) -> str:
    if value == "":
        raise BadValue("is empty: write what it is to be, or leave it out")
    if not isinstance(value, str) or not value:
        raise BadValue(f"{value!r} is not text: put it in quotes")
    return value


def _secret(value: object) -> Secret:
    """One line that is never shown."""
    text = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(text, str) or not text or not _is_line(text):
        raise BadValue("is a secret that is empty or not one line of text: put it in quotes")
    return Secret(text)


def _secret_block(value: object) -> Secret:
    """Text of several lines that is never shown."""
    text = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(text, str) or not text:
        raise BadValue("is a secret that is empty or not text: write it as a block after '|'")
    return Secret(text)


def _is_line(text: str) -> bool:
    return not any(ord(c) < 32 or ord(c) == 127 for c in text)


def check_header_name(name: object) -> None:
    """Whether a header of this name may be set.

    Raises:
        BadValue: no name of a header, or one that belongs to the protocol.
    """
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise BadValue(f"{name!r} is not a header's name: letters, digits and '-'")
    if name.lower() == "authorization":
        raise BadValue(f"{name!r} is set by 'authorization' or 'basic_auth': write one of these")
    if name.lower() in RESERVED_HEADERS:
        raise BadValue(f"{name!r} belongs to the protocol and cannot be set: take it out")


def _endpoint_name(value: object) -> str:
    """A word that can name a file on any system."""
    if not isinstance(value, str) or not _ENDPOINT_NAME.fullmatch(value):
        raise BadValue(
            f"{value!r} is not a name for an endpoint: write a word of at most 40 small letters, "
            "digits, '-' and '_', such as 'long-term'"
        )
    return value


def _headers(value: object) -> dict[str, str]:
    """Header names and values; values may be secrets and are never shown."""
    if not isinstance(value, Mapping):
        raise BadValue("is not a mapping: write header names and values, {X-Scope-OrgID: team}")
    for name, text in value.items():
        check_header_name(name)
        if not isinstance(text, str) or not _is_line(text):
            raise BadValue(f"{name!r} has a value that is not one line of text: put it in quotes")
    return dict(value)


def _lines(value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(
        isinstance(text, str) and text and _is_line(text) for text in texts
    ):
        raise BadValue("is not a list of lines of text: write ['one', 'two']")
    return tuple(texts)


def _secrets(value: object) -> tuple[Secret, ...]:
    texts = [value] if isinstance(value, str | Secret) else value
    if not isinstance(texts, Sequence):
        raise BadValue("is not a list of lines of text: write ['one', 'two']")
    return tuple(_secret(text) for text in texts)


def _token(value: object) -> str:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise BadValue(f"{value!r} is not one word: write such as 'Bearer'")
    return value


def _auto_or_bool(value: object) -> Literal["auto"] | bool:
    text = str(value).lower()
    if text == "auto":
        return "auto"
    if text not in ("true", "false"):
        raise BadValue(f"{value!r} is not known: write 'auto', true or false")
    return text == "true"


def _transform(value: object) -> str:
    if value not in ("auto", "none", "rate", "delta"):
        raise BadValue(f"{value!r} is not a transform: write 'auto', 'none', 'rate' or 'delta'")
    return str(value)


def _params(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise BadValue(f"{value!r} is not a mapping: write settings of the model by name")
    return dict(value)


def _timezone(value: object) -> str:
    try:
        ZoneInfo(str(value))
    except (KeyError, ValueError, OSError):
        raise BadValue(
            f"{value!r} is not a time zone: write a name of the IANA database such as "
            "'Europe/Berlin', or 'UTC'"
        ) from None
    return str(value)


def _path(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadValue(f"{value!r} is not a path: write text such as './sentinel_artifacts'")
    return value


def _host(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Za-z.:_-]+", value):
        raise BadValue(f"{value!r} is not an address to listen on: '127.0.0.1' or '0.0.0.0'")
    return value


Duration: TypeAlias = Annotated[str, PlainValidator(_positive_duration)]
ZeroOrDuration: TypeAlias = Annotated[str, PlainValidator(_duration)]
Seconds: TypeAlias = Annotated[str | float, PlainValidator(_seconds)]
Granularity: TypeAlias = Annotated[str, PlainValidator(_granularity)]
Cron: TypeAlias = Annotated[str, PlainValidator(_cron)]
Url: TypeAlias = Annotated[str, PlainValidator(check_url)]
MetricName: TypeAlias = Annotated[str, PlainValidator(_metric)]
OutputName: TypeAlias = Annotated[str, PlainValidator(_output_name)]
Labels: TypeAlias = Annotated[Mapping[str, str], PlainValidator(_labels)]
Matchers: TypeAlias = Annotated[Sequence[str], PlainValidator(_matchers)]
Clip: TypeAlias = Annotated[tuple[float | None, float | None], PlainValidator(check_clip)]
Sides: TypeAlias = Annotated[float | tuple[float, float], PlainValidator(check_sides)]
Steps: TypeAlias = Annotated[Literal["auto"] | Sequence[int], PlainValidator(check_steps)]
Threshold: TypeAlias = Annotated[str | float, PlainValidator(_threshold)]
TimeZone: TypeAlias = Annotated[str, PlainValidator(_timezone)]
PathText: TypeAlias = Annotated[str, PlainValidator(_path)]
Host: TypeAlias = Annotated[str, PlainValidator(_host)]
Params: TypeAlias = Annotated[Mapping[str, Any], PlainValidator(_params)]
Text: TypeAlias = Annotated[str, PlainValidator(_text)]
SecretText: TypeAlias = Annotated[Secret | str, PlainValidator(_secret)]
SecretBlock: TypeAlias = Annotated[Secret | str, PlainValidator(_secret_block)]
SecretLines: TypeAlias = Annotated[Sequence[Secret | str], PlainValidator(_secrets)]
HeaderLines: TypeAlias = Annotated[Sequence[str], PlainValidator(_lines)]
Token: TypeAlias = Annotated[str, PlainValidator(_token)]
EndpointName: TypeAlias = Annotated[str, PlainValidator(_endpoint_name)]
Headers: TypeAlias = Annotated[Mapping[str, str], PlainValidator(_headers)]
AutoOrBool: TypeAlias = Annotated[Literal["auto"] | bool, PlainValidator(_auto_or_bool)]
Transform: TypeAlias = Annotated[
    Literal["auto", "none", "rate", "delta"], PlainValidator(_transform)
]
ModelName: TypeAlias = Annotated[str, PlainValidator(check_model)]
ModelClass: TypeAlias = Annotated[str | type[Any], PlainValidator(check_model_class)]

"""A walk through JSON that may be long, one value at a time.

The parser of the standard library would make objects of the whole in one go, and hold the
interpreter meanwhile: 32 MB take it a quarter of a second, in which nothing else runs.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\r\n]*")


class Garbage(ValueError):
    """The upstream's answer is not what Prometheus would say."""


def decoded(body: bytes) -> str:
    """
    Raises:
        ValueError: not UTF-8.
    """
    return body.decode()


class Cursor:
    """A place in a JSON text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.began = 0  # where the newest value began

    def peek(self) -> str:
        found = _SPACE.match(self.text, self.at)
        assert found is not None, "the pattern matches nothing too"
        self.at = found.end()
        return self.text[self.at : self.at + 1]

    def take(self, sign: str) -> bool:
        if self.peek() != sign:
            return False
        self.at += 1
        return True

    def expect(self, sign: str) -> None:
        if not self.take(sign):
            raise Garbage(f"expected {sign!r} at {self.at}")

    def value(self) -> Any:
        self.peek()
        self.began = self.at
        value, self.at = _DECODER.raw_decode(self.text, self.at)
        return value

    def members(self) -> Iterator[str]:
        """Keys of an object; whoever iterates must take each value."""
        self.expect("{")
        if self.take("}"):
            return
        while True:
            key = self.value()
            self.expect(":")
            yield key
            if not self.take(","):
                break
        self.expect("}")

    def elements(self) -> Iterator[None]:
        """Elements of an array; whoever iterates must take each."""
        self.expect("[")
        if self.take("]"):
            return
        yield None
        while self.take(","):
            yield None
        self.expect("]")

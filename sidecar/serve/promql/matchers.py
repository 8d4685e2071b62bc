"""Label matchers for selectors that strangers send: linear in time, RE2's syntax.

``series.Matcher`` is for selectors that the operator wrote. Here a pattern may be hostile, and
Python's own engine backtracks: ``(a+)+b`` on a long label value would hold the interpreter for
ever. The Rust engine that pydantic brings does not, and it speaks RE2's syntax as Prometheus does.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

from pydantic_core import SchemaError, SchemaValidator, core_schema

from sidecar.series import LabelSet, MatchOp, quote


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> SchemaValidator:
    anchored = f"^(?s:{pattern})$"
    return SchemaValidator(core_schema.str_schema(pattern=anchored, regex_engine="rust-regex"))


@dataclass(frozen=True)
class LabelMatcher:
    """One condition on one label, as PromQL has it: anchored, ``.`` matches all.

    >>> LabelMatcher("job", MatchOp.REGEX, "a|b").accepts_value("b")
    True

    Raises:
        ValueError: the regular expression does not compile.
    """

    name: str
    op: MatchOp
    value: str

    def __post_init__(self) -> None:
        if self.op in (MatchOp.REGEX, MatchOp.NOT_REGEX):
            try:
                _compiled(self.value)
            except (SchemaError, UnicodeEncodeError) as error:
                said = str(error).strip().splitlines()[-1]
                raise ValueError(f"error parsing regexp: {self.value!r}: {said}") from None

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.op, self.value))

    def __hash__(self) -> int:
        return self._hash

    @property
    def exact(self) -> str | None:
        """The only value that this accepts, where it is an equality."""
        return self.value if self.op is MatchOp.EQUAL else None

    def accepts_value(self, value: str) -> bool:
        match self.op:
            case MatchOp.EQUAL:
                return value == self.value
            case MatchOp.NOT_EQUAL:
                return value != self.value
            case MatchOp.REGEX:
                return _compiled(self.value).isinstance_python(value)
            case MatchOp.NOT_REGEX:
                return not _compiled(self.value).isinstance_python(value)

    def accepts(self, labels: LabelSet) -> bool:
        return self.accepts_value(labels.get(self.name))

    def __str__(self) -> str:
        return f"{label_name(self.name)}{self.op.value}{quote(self.value)}"


def label_name(name: str) -> str:
    """A label name as PromQL writes it: quoted where it is not a plain one (Prometheus 3).

    >>> label_name("job"), label_name("a.b")
    ('job', '"a.b"')
    """
    return name if is_plain_label(name) else quote(name)


def is_plain_label(name: str) -> bool:
    """Whether a name is ``[a-zA-Z_][a-zA-Z0-9_]*``: an ASCII identifier, in fact.

    >>> is_plain_label("job"), is_plain_label("1x"), is_plain_label("é"), is_plain_label("a:b")
    (True, False, False, False)
    """
    return name.isascii() and name.isidentifier()

"""A YAML file as plain values, every scalar as the text that stands in the file.

The schema decides what a value is, not YAML: ``env: no`` is the label value ``no``, ``version:
1.10`` keeps its zero, ``password: 0123`` is a password. Only ``model_params`` holds typed values,
since the schema does not know them. Bounded in bytes, depth and expanded nodes; a key written
twice is a problem, and every problem carries its path.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml

from sidecar.config.messages import join, path_of
from sidecar.errors import ConfigError, Problem

MOST_BYTES: Final = 4 * 1024 * 1024
_MOST_DEPTH: Final = 32
_MOST_NODES: Final = 500_000  # after aliases are expanded
TYPED: Final = "model_params"
_CORE: Final = "tag:yaml.org,2002:"
_SCALARS: Final = ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
_VARIABLE: Final = re.compile(r"\$(?P<escaped>\$?)\{(?P<name>[^}]*)\}")
_VARIABLE_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def parse(
    text: str, environ: Mapping[str, str], *, typed: bool = False
) -> tuple[dict[str, Any], list[Problem]]:
    """The file's mapping with ``${VAR}`` replaced, and what is wrong with it.

    Args:
        typed: unquoted values are what YAML takes them for, not text.

    Raises:
        ConfigError: it is no YAML mapping at all, or beyond the limits.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        raise ConfigError([Problem("", f"the file is larger than {MOST_BYTES >> 20} MiB")])
    try:
        _check_depth(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError([Problem("", f"the file is not YAML: {_yaml_message(error)}")]) from None
    if root is None:
        return {}, []
    reader = _Reader(environ, typed)
    value = reader.value(root, ())
    if not isinstance(value, dict):
        raise ConfigError([Problem("", "the file is not a mapping: write 'name: value' lines")])
    return value, reader.problems


def _check_depth(text: str) -> None:
    """Refuse deep nesting before anything recursive runs."""
    depth, line = 0, 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.events.CollectionStartEvent):
            depth += 1
            line = event.start_mark.line + 1 if event.start_mark else 0
        elif isinstance(event, yaml.events.CollectionEndEvent):
            depth -= 1
        if depth > _MOST_DEPTH:
            raise ConfigError([Problem("", f"line {line} is nested deeper than {_MOST_DEPTH}")])


def _yaml_message(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error).splitlines()[0]
    mark = error.problem_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    return f"{where}: {error.problem or error.context}"


class _Reader:
    """Turns nodes into values and gathers problems."""

    def __init__(self, environ: Mapping[str, str], typed: bool) -> None:
        self._typed = typed
        self.problems: list[Problem] = []
        self._environ = environ
        self._nodes = 0
        self._open: list[yaml.Node] = []

    def value(self, node: yaml.Node, loc: tuple[int | str, ...]) -> Any:
        """The node's value; None for null, which stands for "not given"."""
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            message = f"aliases grow the file beyond {_MOST_NODES:,} values: write fewer of them"
            raise ConfigError([Problem("", message)])
        if any(node is one for one in self._open):
            self._problem(loc, node, "contains itself through an alias: write it out")
            return None
        self._open.append(node)
        try:
            return self._known(node, loc)
        finally:
            self._open.pop()

    def _known(self, node: yaml.Node, loc: tuple[int | str, ...]) -> Any:
        match node:
            case yaml.MappingNode() if node.tag == _CORE + "map":
                return self._mapping(node, loc)
            case yaml.SequenceNode() if node.tag == _CORE + "seq":
                return self._sequence(node, loc)
            case yaml.ScalarNode() if node.tag.removeprefix(_CORE) in _SCALARS:
                return self._scalar(node, loc)
        self._problem(loc, node, f"has the tag {node.tag!r}: write plain values without tags")
        return None

    def _sequence(self, node: yaml.SequenceNode, loc: tuple[int | str, ...]) -> list[Any]:
        found = []
        for number, one in enumerate(node.value):
            value = self.value(one, (*loc, number))
            if value is not None:
                found.append(value)
            elif one.tag == _CORE + "null":
                self._problem((*loc, number), one, "is empty: write a value, or take it out")
        return found

    def _scalar(self, node: yaml.ScalarNode, loc: tuple[int | str, ...]) -> Any:
        if node.tag == _CORE + "null":
            return None
        text = self._expanded(str(node.value), loc)
        plain = node.style is None
        return as_yaml(text) if plain and (self._typed or TYPED in loc) else text

    def _expanded(self, text: str, loc: tuple[int | str, ...]) -> str:
        def variable(found: re.Match[str]) -> str:
            name = found["name"]
            if found["escaped"]:
                return "${" + name + "}"
            if not _VARIABLE_NAME.fullmatch(name):
                message = f"${{{name}}} is not a variable: write ${{NAME}}, or $${{ for a plain ${{"
                self.problems.append(Problem(path_of(loc), message))
            elif name not in self._environ:
                message = (
                    f"${{{name}}} is not set in the environment: set {name}, or write the value"
                )
                self.problems.append(Problem(path_of(loc), message))
            return self._environ.get(name, "")

        return _VARIABLE.sub(variable, text)

    def _mapping(self, node: yaml.MappingNode, loc: tuple[int | str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _CORE + "merge":
                merged = {**self._merged(value_node, loc), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(loc, key_node, "has a key that is not text")
                continue
            key = str(key_node.value)
            if key in found:
                self._problem((*loc, key), key_node, "is written twice: keep one of the two")
                continue
            found[key] = self.value(value_node, (*loc, key))
        return {key: one for key, one in {**merged, **found}.items() if one is not None}

    def _merged(self, node: yaml.Node, loc: tuple[int | str, ...]) -> dict[str, Any]:
        """What ``<<`` brings in; of several mappings the first to have a key wins."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Any] = {}
        for part in parts:
            value = self.value(part, loc)
            if isinstance(value, dict):
                found = {**value, **found}
            else:
                self._problem(loc, part, "merges something that is not a mapping")
        return found

    def _problem(self, loc: tuple[int | str, ...], node: yaml.Node, message: str) -> None:
        line = f"(line {node.start_mark.line + 1})"
        self.problems.append(Problem(join(path_of(loc), ""), f"{message} {line}"))


def as_yaml(text: str) -> Any:
    """What YAML takes an unquoted scalar for: a number, true or false, null, a date, or text; text,
    too, where it is a date or a number that does not exist.

    >>> as_yaml("0x10"), as_yaml("2023-13-45"), as_yaml("0b_")
    (16, '2023-13-45', '0b_')
    """
    loader = yaml.SafeLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    try:
        return loader.construct_object(yaml.ScalarNode(tag, text), deep=True)
    except ValueError:
        return text

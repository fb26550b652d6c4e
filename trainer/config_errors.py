"""Put what pydantic found wrong into one line each: the rule, the value, the nearest known key."""

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

KeyPath = tuple[str | int, ...]

_RULES: Mapping[str, Callable[[Mapping[str, object]], str]] = {
    "less_than": lambda context: f"be less than {_number(context['lt'])}",
    "less_than_equal": lambda context: f"be at most {_number(context['le'])}",
    "greater_than": lambda context: f"be more than {_number(context['gt'])}",
    "greater_than_equal": lambda context: f"be at least {_number(context['ge'])}",
    "int_type": lambda _: "be an integer",
    "int_from_float": lambda _: "be an integer",
    "float_type": lambda _: "be a number",
    "finite_number": lambda _: "be finite",
    "bool_type": lambda _: "be true or false",
    "string_type": lambda _: "be text",
    "tuple_type": lambda _: "be a list",
    "model_type": lambda _: "be a mapping",
    "model_attributes_type": lambda _: "be a mapping",
    "too_long": lambda context: f"hold {context['max_length']} values",
    "literal_error": lambda context: f"be {context['expected']}",
}


class ConfigError(ValueError):
    """One or more mistakes in a configuration, a line each."""


def dotted(path: KeyPath) -> str:
    """Write a path as in ``data.image_size[1]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def field_annotation(model: type[BaseModel], path: KeyPath) -> object | None:
    """Return the type of a setting, or None where there is no such setting."""
    annotation: object = model
    for part in path:
        section = section_of(annotation)
        if section is None or part not in section.model_fields:
            return None
        annotation = section.model_fields[str(part)].annotation
    return annotation


def section_of(annotation: object) -> type[BaseModel] | None:
    """Return the section that an annotation stands for, if it does."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def known_keys(model: type[BaseModel], prefix: KeyPath = ()) -> Iterator[KeyPath]:
    """Walk over every setting, sections included."""
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        section = section_of(field.annotation)
        if section is not None:
            yield from known_keys(section, (*prefix, name))


def unknown_key(model: type[BaseModel], path: KeyPath) -> str:
    """Say that a key is unknown, and which known one is nearest in spelling or in name."""
    message = f"unknown key '{dotted(path)}'"
    keys = list(known_keys(model))
    spelled = {dotted(key): dotted(key) for key in keys}
    near = difflib.get_close_matches(dotted(path), spelled, n=1, cutoff=0.8)
    if not near:
        # The right name in the wrong section.
        named = {str(key[-1]): dotted(key) for key in keys}
        near = [named[n] for n in difflib.get_close_matches(str(path[-1]), named, 1, 0.8)]
    if not near:
        near = difflib.get_close_matches(dotted(path), spelled, n=1, cutoff=0.6)
    return f"{message}; did you mean '{near[0]}'?" if near else message


def describe(error: ErrorDetails, model: type[BaseModel]) -> list[tuple[KeyPath, str]]:
    """Return the place and the words of everything that one pydantic error reports."""
    path, context = error["loc"], error.get("ctx", {})
    match error["type"]:
        case "conflict":
            return [(tuple(key.split(".")), message) for key, message in context["conflicts"]]
        case "extra_forbidden":
            return [(path, unknown_key(model, path))]
        case "missing" if isinstance(path[-1], int):
            length = len(get_args(field_annotation(model, path[:-1])))
            return [(path[:-1], f"{dotted(path[:-1])} must hold {length} values")]
        case "missing":
            return [(path, f"missing key '{dotted(path)}'")]
        case "string_pattern_mismatch":
            rule = f"match {context['pattern']}"
        case kind:
            rule = _RULES[kind](context) if kind in _RULES else f"be valid ({error['msg']})"
    return [(path, f"{dotted(path)} must {rule}, got {shown(error['input'])}")]


def shown(value: object) -> str:
    """Write a value as YAML would, quoting text."""
    if isinstance(value, str):
        return repr(value)
    return json.dumps(value, default=str)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

"""Read a run from a YAML file and ``key=value`` overrides, and say where a mistake is.

YAML 1.2 (``1e-3`` is a number, ``on`` is text), one document, no anchors, no tags, no key twice.
Every mistake of a file is reported at once, as ``file:line:column: what is wrong``.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal, final, get_args, get_origin

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from trainer.config import AnyRun, MaeConfig, Mask3DConfig
from trainer.config_errors import (
    ConfigError,
    KeyPath,
    describe,
    dotted,
    field_annotation,
    shown,
    unknown_key,
)
from trainer.config_mim4d import Mim4dConfig
from trainer.config_run import RunConfig

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
_SCHEMAS: Mapping[str, type[AnyRun]] = {
    "mask3d": Mask3DConfig,
    "mae": MaeConfig,
    "mim4d": Mim4dConfig,
}
_SCALAR_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null"))


@final
@dataclass(slots=True, eq=False)
class _Document:
    """Plain values, and the ``file:line:column`` or override that each of them came from."""

    name: str
    values: dict[str, object] = field(default_factory=dict[str, object])
    places: dict[KeyPath, str] = field(default_factory=dict[KeyPath, str])
    mistakes: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def place(self, path: KeyPath) -> str:
        """Return where a setting, or else the nearest section around it, was written."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, self.name)

    def blame(self, path: KeyPath, message: str) -> None:
        """Note a mistake at the place of a setting."""
        self.mistakes.append((self.place(path), message))

    def raise_mistakes(self) -> None:
        """Raise all that was noted, in the order of the file."""
        if self.mistakes:
            ordered = sorted(self.mistakes, key=lambda mistake: _by_position(mistake[0]))
            raise ConfigError("\n".join(f"{place}: {text}" for place, text in ordered))


def load_config(
    source: str | Path | RunConfig, overrides: Sequence[str] | Mapping[str, object] = ()
) -> AnyRun:
    """Return the run that a file, a packaged name or a configuration describes.

    ``overrides`` are ``key=value`` texts, typed by the setting they name, or a mapping of dotted
    (``data.path``), underscored (``data__path``) or nested keys to values. ``out`` is never None
    in the result: it defaults to ``runs/`` and the file's name.

    Raises:
        ConfigError: Listing every mistake, a line each.
    """
    if isinstance(source, RunConfig):
        name = source.model_dump()["method"]
        document = _Document(name, json.loads(source.model_dump_json()))
    else:
        document = _read(source)
        name = Path(source).name.removesuffix(".yaml")
    model = _model(document, overrides)
    for path, value, label in _settings(overrides):
        _apply(document, model, path, value, label)
    config = _validate(document, model)
    return config.model_copy(update={"out": config.out or Path("runs") / name})


def packaged_configs() -> tuple[str, ...]:
    """List the configurations that come with the package."""
    folder = resources.files("trainer") / "configs"
    return tuple(sorted(item.name for item in folder.iterdir() if item.name.endswith(".yaml")))


def dump_config(config: RunConfig) -> str:
    """Write a resolved configuration as YAML that ``load_config`` reads back."""
    lines = list(_yaml_lines(json.loads(config.model_dump_json())))
    return "\n".join(lines) + "\n"


def _read(source: str | Path) -> _Document:
    path = Path(source)
    if not path.is_file():
        return _parse(_packaged(path), path.name)
    if path.stat().st_size > MAX_BYTES:
        size = path.stat().st_size
        raise ConfigError(f"{path}: the file must be at most {MAX_BYTES} bytes, got {size}")
    try:
        return _parse(path.read_text(encoding="utf-8"), str(source))
    except UnicodeDecodeError as error:
        message = f"{path}: the file must be UTF-8 text, got byte {error.start} that is not"
        raise ConfigError(message) from None


def _packaged(path: Path) -> str:
    names = packaged_configs()
    name = path.name if path.name in names else f"{path.name}.yaml"
    if path.parent == Path() and name in names:
        return (resources.files("trainer") / "configs" / name).read_text(encoding="utf-8")
    raise ConfigError(f"{path}: no such file, nor a packaged config ({', '.join(names)})")


def _parse(text: str, name: str) -> _Document:
    document = _Document(name)
    root = _compose(text, name)
    if not isinstance(root, MappingNode):
        raise ConfigError(f"{name}:1:1: the file must hold 'key: value' lines")
    document.values = _mapping(root, (), document)
    document.raise_mistakes()
    return document


def _compose(text: str, name: str) -> Node | None:
    try:
        return YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{where}: not YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {str(error).splitlines()[0]}") from None


def _value(node: Node, path: KeyPath, document: _Document) -> object:
    """Build the plain value of a node and note where its parts stand."""
    document.places.setdefault(path, _mark(node, document))
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"{_mark(node, document)}: settings must not nest deeper than this")
    if node.anchor is not None:
        document.mistakes.append((_mark(node, document), "anchors and aliases are not supported"))
        return None
    if isinstance(node, MappingNode):
        return _mapping(node, path, document)
    if isinstance(node, SequenceNode):
        return [_value(item, (*path, i), document) for i, item in enumerate(node.value)]
    return _scalar(node)


def _mapping(node: MappingNode, path: KeyPath, document: _Document) -> dict[str, object]:
    values, lines = dict[str, object](), dict[str, int]()
    for key_node, value_node in node.value:
        key, place = str(key_node.value), _mark(key_node, document)
        if key in lines:
            message = f"key '{dotted((*path, key))}' given twice (first on line {lines[key]})"
            document.mistakes.append((place, message))
            continue
        lines[key] = key_node.start_mark.line + 1
        document.places[(*path, key)] = place
        values[key] = _value(value_node, (*path, key), document)
    return values


def _scalar(node: Node) -> object:
    if node.tag in _SCALAR_TAGS:
        return YAML(typ="safe", pure=True).constructor.construct_object(node)
    return node.value


def _mark(node: Node, document: _Document) -> str:
    return f"{document.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _by_position(place: str) -> tuple[int, ...]:
    return tuple(int(part) for part in place.split(":")[-2:] if part.isdigit())


def _settings(
    overrides: Sequence[str] | Mapping[str, object],
) -> Iterator[tuple[KeyPath, object, str]]:
    """Yield the path, the value (a ``_Text`` where it is still to be typed) and a label of each."""
    if isinstance(overrides, Mapping):
        for path, value in _flattened(overrides, ()):
            yield path, value, f"{dotted(path)}={value}"
        return
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"an override must read key=value, got {shown(text)}")
        yield tuple(key.split(".")), _Text(value), text


@final
@dataclass(frozen=True, slots=True)
class _Text:
    """The right side of an override, not yet typed."""

    text: str


def _flattened(values: Mapping[str, object], prefix: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    for key, value in values.items():
        path = (*prefix, *key.replace("__", ".").split("."))
        if isinstance(value, Mapping):
            yield from _flattened({str(name): item for name, item in value.items()}, path)
        else:
            yield path, value


def _model(document: _Document, overrides: Sequence[str] | Mapping[str, object]) -> type[AnyRun]:
    """Pick the schema by ``method``, in the file or overridden."""
    for path, value, label in _settings(overrides):
        if path == ("method",):
            document.values["method"] = value.text if isinstance(value, _Text) else value
            document.places[path] = label
    method = document.values.get("method")
    if isinstance(method, str) and method in _SCHEMAS:
        return _SCHEMAS[method]
    *names, last = map(repr, _SCHEMAS)
    rule = f"must be {', '.join(names)} or {last}"
    if "method" in document.values:
        message = f"method {rule}, got {shown(method)}"
    else:
        message = f"missing key 'method'; it {rule}"
    raise ConfigError(f"{document.place(('method',))}: {message}")


def _apply(
    document: _Document, model: type[RunConfig], path: KeyPath, value: object, label: str
) -> None:
    """Set one override in the document."""
    annotation = field_annotation(model, path)
    if annotation is None:
        document.mistakes.append((label, unknown_key(model, path)))
        return
    if isinstance(value, _Text):
        value = _typed(value.text, annotation, label)
    section = document.values
    for part in path[:-1]:
        inner = section.get(str(part))
        if not isinstance(inner, dict):
            inner = section[str(part)] = {}
        section = inner
    section[str(path[-1])] = value
    for place in [place for place in document.places if place[: len(path)] == path]:
        del document.places[place]
    document.places[path] = label


def _typed(text: str, annotation: object, label: str) -> object:
    """Read the right side of an override: text stays as it is where the setting is text."""
    choices = get_args(annotation)
    if text == "null" and type(None) in choices:
        return None
    kinds = choices or (annotation,)
    if get_origin(annotation) is Literal or {str, Path} & set(kinds):
        return text
    try:
        node = _compose(text, label)
    except ConfigError:
        raise ConfigError(f"{label}: the value must be YAML, got {shown(text)}") from None
    return None if node is None else _value(node, (), _Document(label))


def _validate(document: _Document, model: type[AnyRun]) -> AnyRun:
    try:
        text = json.dumps(document.values, default=str)
        config = model.model_validate_json(text, strict=True)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            for path, message in describe(detail, model):
                document.blame(path, message)
    else:
        document.raise_mistakes()
        return config
    document.raise_mistakes()
    raise AssertionError("a validation error holds at least one mistake")


def _yaml_lines(values: Mapping[str, object], indent: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _yaml_lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}"

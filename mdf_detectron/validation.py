"""Validate parsed JSON or YAML with pydantic models; report the first mistake in one line with file and place."""

from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mdf_detectron.errors import UserError, shorten


class Strict(BaseModel):
    """Base model: no type conversion, no unknown keys, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True)


Model = TypeVar("Model")
_adapter = lru_cache(TypeAdapter)


def validated(model: type[Model], data: Any, where: str, error: type[UserError]) -> Model:
    """Build a model or pydantic-compatible dataclass from parsed JSON or YAML.

    It raises ``error`` with ``where``, the first mistake ("columns[2].kind", found, expected) and the number of others.
    """
    try:
        return _adapter(model).validate_python(data)
    except ValidationError as problem:
        raise error(f"{where}: {problem_text(problem)}") from None


def problem_text(problem: ValidationError) -> str:
    """Describe the first mistake in one line and count the others."""
    first, *more = problem.errors(include_url=False, include_context=True)
    place = place_text(first["loc"])
    if first["type"] == "value_error":  # from our own validators, whose message is complete
        text = str(first["ctx"]["error"])
    elif first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {place!r}{_and(more)}"
    elif first["type"] == "missing":
        return f"no {place!r}{_and(more)}"
    else:
        text = f"{shorten(first['input'])}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return f"{place}: {text}{_and(more)}" if place else f"{text}{_and(more)}"


def _and(more: list[Any]) -> str:
    return f" (and {len(more)} more)" if more else ""


def place_text(location: tuple[int | str, ...]) -> str:
    """Format a location in nested data: ("columns", 2, "kind") → "columns[2].kind"."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text

"""What filters of logs, actor events and traces have in common: one value or several, and how many at most."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, Final

from rpc.params import param_of

#: the most addresses, and the most values of one topic or key, that a filter may name
MAX_FILTER_VALUES: Final = 1000
OPTIONAL_TEXT: Final = param_of("text", str | None)


def check_length(values: Sized, go: str, most: int = MAX_FILTER_VALUES) -> None:
    """Refuse a part of a filter that names too much. `go`: the type that the text names. Errors: ValueError."""
    if len(values) > most:
        raise ValueError(f"too many items in a {go}: {len(values)}, max: {most}")


def decode_one_or_more(value: Any, decode: Any, go: str) -> tuple[bytes, ...]:
    """One value, or an array of them; null for none. Errors: ValueError."""
    if value is None:
        return ()
    if not isinstance(value, list):
        return (decode(value),)
    check_length(value, go)
    return tuple(decode(item) for item in value)

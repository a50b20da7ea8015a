"""Bitfields: sets of numbers under 2^64, as packed run lengths (RLE+). All functions work on the packed bytes.

From the least significant bit on: two bits version (0), one bit the value of the first run, then runs of
alternating value: `1` a run of 1; `01` and 4 bits a run under 16; `00` and a varint any run. A run of 0 ends
the list. The last byte is not 0. In JSON: the array of run lengths, the first being of absent numbers
(it may be 0). Source: go-bitfield v0.2.4 and its `rle` package.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, Final

from chain.errors import BadObject

#: the largest bitfield that is decoded, in bytes
MAX_ENCODED: Final = 32 << 10
#: run lengths of a bitfield in JSON that are read; what a bitfield on chain can have is about as much
MAX_RUNS: Final = 1 << 17
#: numbers of which a merge makes the runs at once: 2 to this power
_PIECE_BITS: Final = 13
_MAX: Final = (1 << 64) - 1
#: the most numbers that `bits` returns
_MAX_BITS: Final = 1 << 26


def check(data: bytes) -> None:
    """Check what go-bitfield checks when it decodes a bitfield. `runs` checks the runs. Errors: BadObject."""
    if len(data) > MAX_ENCODED:
        raise BadObject("array too large")
    if data and data[0] & 3:
        raise BadObject("could not decode rle+: could not create RLE+ for a buffer: invalid RLE+ version")


def runs(data: bytes) -> list[int]:
    """The run lengths. The first run is of absent numbers: 0 if number 0 is a member. Errors: BadObject."""
    if not data:
        return []
    if data[-1] == 0:
        raise BadObject("validation failed: not minimally encoded: invalid encoding for RLE+ version 0")
    if data[0] & 3:
        raise BadObject("validation failed: invalid RLE+ version")
    out = [0] if data[0] & 4 else []
    window = data[0] >> 3
    have = 5
    at = 1
    size = len(data)
    total = 0
    while True:
        if have < 96 and at < size:
            chunk = data[at : at + 32]
            window |= int.from_bytes(chunk, "little") << have
            have += 8 * len(chunk)
            at += 32
        if window & 1:
            length = 1
            window >>= 1
            have -= 1
        elif window & 2:
            length = window >> 2 & 15
            window >>= 6
            have -= 6
        else:
            window >>= 2
            have -= 2
            length = shift = 0
            for place in range(10):
                byte = window & 0xFF
                window >>= 8
                have -= 8
                length |= (byte & 0x7F) << shift
                if byte < 0x80:
                    if not byte and shift:
                        raise BadObject("validation failed: invalid run: invalid encoding for RLE+ version 0")
                    if place == 9 and byte > 1:
                        raise BadObject("validation failed: run too long: invalid encoding for RLE+ version 0")
                    break
                shift += 7
            else:
                raise BadObject("validation failed: run too long: invalid encoding for RLE+ version 0")
        if not length:
            return out
        total += length
        if total > _MAX:
            raise BadObject("validation failed: RLE+ overflow")
        out.append(length)


def from_runs(lengths: Sequence[int]) -> bytes:
    """The packed form of run lengths. The first run is of absent numbers. Errors: BadObject (a 0 after the first)."""
    last = len(lengths)
    if last % 2:
        last -= 1  # absent numbers at the end are not written
    bits = 0
    at = 3
    parts: list[bytes] = []
    if last and not lengths[0]:
        bits = 4
    for place in range(last):
        length = lengths[place]
        if not length:
            if place:
                raise BadObject("Cannot have a zero-length run except at start")
            continue
        if length == 1:
            bits |= 1 << at
            at += 1
        elif length < 16:
            bits |= (2 | length << 2) << at
            at += 6
        else:
            at += 2
            while length >= 0x80:
                bits |= (length & 0x7F | 0x80) << at
                length >>= 7
                at += 8
            bits |= length << at
            at += 8
        if at > 512:
            whole = at >> 3
            parts.append((bits & ((1 << 8 * whole) - 1)).to_bytes(whole, "little"))
            bits >>= 8 * whole
            at -= 8 * whole
    parts.append(bits.to_bytes((at + 7) // 8, "little"))
    return b"".join(parts).rstrip(b"\0")


def to_json(data: bytes) -> list[int]:
    """The run lengths in Lotus' JSON form: [0] for the empty set, no absent numbers at the end.

    Errors: BadObject.
    """
    lengths = runs(data)
    if len(lengths) % 2:
        lengths.pop()
    return lengths or [0]


def from_json(value: Any) -> bytes:
    """The packed form of a JSON array of run lengths. null: the empty set. Errors: BadObject, with Go's text."""
    return b"" if value is None else from_runs(runs_from_json(value))


def runs_from_json(value: Any) -> list[int]:
    """A JSON array of run lengths, checked. Errors: BadObject, with Go's text; it has more than `MAX_RUNS`."""
    if type(value) is not list:
        # Go names a number only where the type is a number's too
        kind = _json_kind(value).partition(" ")[0]
        raise BadObject(f"json: cannot unmarshal {kind} into Go value of type []uint64")
    if len(value) > MAX_RUNS:
        raise BadObject(f"a bitfield of {len(value)} run lengths, of which {MAX_RUNS} are allowed")
    for length in value:
        if type(length) is not int or not 0 <= length <= _MAX:
            raise BadObject(f"json: cannot unmarshal {_json_kind(length)} into Go value of type uint64")
    if 0 in value[1:]:
        raise BadObject("Cannot have a zero-length run except at start")
    return value


def _json_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return f"number {value}"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "array"
    return "object" if isinstance(value, dict) else "null"


# --- sets ----------------------------------------------------------------------------------------------------

#: a run of members: [start, end)
Span = tuple[int, int]
#: ascending, never adjacent
Spans = list[Span]


def spans(data: bytes) -> Spans:
    """The runs of members. Errors: BadObject."""
    return spans_of_runs(runs(data))


def spans_of_runs(lengths: Iterable[int]) -> Spans:
    """The runs of members, of run lengths of which the first is of absent numbers."""
    ends = accumulate(lengths)
    return list(zip(ends, ends, strict=False))


def runs_of_spans(members: Iterable[Span]) -> list[int]:
    """The other way round."""
    lengths: list[int] = []
    at = 0
    for start, end in members:
        lengths += (start - at, end - start)
        at = end
    return lengths


def _pack(members: Iterable[Span]) -> bytes:
    return from_runs(runs_of_spans(members))


def from_bits(numbers: Iterable[int]) -> bytes:
    """The packed form of a set of numbers, in any order. Errors: BadObject (not under 2^64 - 1)."""
    found: Spans = []
    for number in sorted(set(numbers)):
        if not 0 <= number < _MAX:
            raise BadObject(f"{number} has no place in a bitfield")
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return _pack(found)


def bits(data: bytes, limit: int = _MAX_BITS) -> Iterator[int]:
    """The members, ascending. Errors: BadObject, also for more than `limit` members."""
    return members_of(spans(data), limit)


def members_of(found: Spans, limit: int = _MAX_BITS) -> Iterator[int]:
    """The same of runs of members."""
    if sum(end - start for start, end in found) > limit:
        raise BadObject(f"expected at most {limit} bits in the bitfield")
    for start, end in found:
        yield from range(start, end)


def count(data: bytes) -> int:
    """The number of members. Errors: BadObject."""
    return sum(runs(data)[1::2])


def is_empty(data: bytes) -> bool:
    """Whether the set is empty. Errors: BadObject."""
    return len(runs(data)) < 2


def has(data: bytes, number: int) -> bool:
    """Whether a number is a member. Errors: BadObject."""
    at = 0
    inside = False
    for length in runs(data):
        at += length
        if number < at:
            return inside
        inside = not inside
    return False


def first(data: bytes) -> int | None:
    """The least member; None for the empty set. Errors: BadObject."""
    lengths = runs(data)
    return lengths[0] if len(lengths) > 1 else None


def last(data: bytes) -> int | None:
    """The greatest member; None for the empty set. Errors: BadObject."""
    found = spans(data)
    return found[-1][1] - 1 if found else None


class Merge:
    """The union of many sets, made in pieces, so that a server can do other things between them."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: defaultdict[int, Spans] = defaultdict(list)

    def add(self, data: bytes) -> None:
        """One more set. Errors: BadObject."""
        pieces = self._pieces
        for span in spans(data):
            pieces[span[0] >> _PIECE_BITS].append(span)

    def spans(self) -> Iterator[Spans]:
        """The runs of members of the union, ascending, never adjacent, some at a time."""
        last: Span | None = None
        for place in sorted(self._pieces):
            found: Spans = []
            for span in sorted(self._pieces[place]):
                if last is None or span[0] > last[1]:
                    if last is not None:
                        found.append(last)
                    last = span
                elif span[1] > last[1]:
                    last = (last[0], span[1])
            yield found
        if last is not None:
            yield [last]


def union(parts: Iterable[bytes]) -> bytes:
    """The numbers that are in any of the sets. Errors: BadObject."""
    merge = Merge()
    for part in parts:
        merge.add(part)
    return _pack(chain.from_iterable(merge.spans()))


def intersect(a: bytes, b: bytes) -> bytes:
    """The numbers that are in both sets. Errors: BadObject."""
    left, right = spans(a), spans(b)
    out: Spans = []
    i = j = 0
    while i < len(left) and j < len(right):
        start = max(left[i][0], right[j][0])
        end = min(left[i][1], right[j][1])
        if start < end:
            out.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return _pack(out)


def subtract(a: bytes, b: bytes) -> bytes:
    """The numbers that are in `a` and not in `b`. Errors: BadObject."""
    out: Spans = []
    away = spans(b)
    j = 0
    for start, end in spans(a):
        while j < len(away) and away[j][1] <= start:
            j += 1
        k = j
        while start < end and k < len(away) and away[k][0] < end:
            if away[k][0] > start:
                out.append((start, away[k][0]))
            start = max(start, away[k][1])
            k += 1
        if start < end:
            out.append((start, end))
    return _pack(out)

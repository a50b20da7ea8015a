"""Which objects of a stream are closed by what came before them or beside them, told by the bytes of their links.

An export writes parents first, but what is below one comes soon after it: most of it in the same batch. An object
that is found closed here is written once, with its mark, and never looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

Pairs = list[tuple[bytes, bytes]]

_MARK: Final = b"\xd8\x2a"
#: dag-cbor and raw blake2b-256 links as encoded. One that begins inside another match is not found, but then
#: the object has more marks than matches
_LINK: Final = re.compile(rb"\xd8\x2a\x58\x27\x00(\x01[\x71\x55]\xa0\xe4\x02\x20.{32})", re.DOTALL)
#: links to unsealed and sealed sector commitments
_COMMITMENTS: Final = (b"\xd8\x2a\x58\x28\x00\x01\x81\xe2\x03", b"\xd8\x2a\x58\x29\x00\x01\x82\xe2\x03")
#: wherever a link may begin: tag 42, a byte string of any length, and in it the sign of a binary CID of version 1
_BEGINS: Final = re.compile(rb"\xd8\x2a(?=(?:[\x40-\x57]|\x58.|\x59.{2}|\x5a.{4}|\x5b.{8})\x00\x01)", re.DOTALL)
#: a longer chain of objects in one batch (block headers) is left to an import's last pass
_DEEPEST: Final = 64


def links_by_bytes(data: bytes) -> Sequence[bytes] | None:
    """CIDs of all objects below a dag-cbor object, perhaps too many, and doubles; None where bytes do not tell."""
    marks = data.count(_MARK)
    if not marks:
        return ()
    found: list[bytes] = _LINK.findall(data)
    if len(found) == marks:
        return found
    told = len(found) + data.count(_COMMITMENTS[0]) + data.count(_COMMITMENTS[1])
    # two bytes that look like the tag stand in one of a few dozen objects
    if told == marks or told == len(_BEGINS.findall(data)):
        return found
    return None


class ClosedOrder:
    """Finds closed objects, batch by batch of a stream whose batches are stored in order.

    `remembered` multihashes of closed objects are kept, about 120 bytes each.
    """

    def __init__(self, remembered: int = 500_000) -> None:
        self._remembered = remembered
        self._closed: set[bytes] = set()

    def split(self, leaves: Pairs, others: Pairs) -> tuple[list[Pairs], Pairs]:
        """Of `others`: levels of closed objects, to be stored one after another behind `leaves`; and the rest.

        Multihashes and bytes; `leaves` have nothing below them.
        """
        closed = self._closed
        if len(closed) > self._remembered:
            closed.clear()
        closed.update([multihash for multihash, _ in leaves])
        here = {multihash for multihash, _ in others}
        #: how many objects of this batch each one waits for, and which ones wait for it
        waits: dict[bytes, int] = {}
        above: dict[bytes, Pairs] = {}
        level: Pairs = []
        for pair in others:
            if pair[0] in waits:
                continue  # a file may hold an object twice
            links = links_by_bytes(pair[1])
            if links is None:
                continue
            missing = {multihash for link in links if (multihash := link[2:]) not in closed}
            if not missing:
                level.append(pair)
            elif missing <= here:
                waits[pair[0]] = len(missing)
                for multihash in missing:
                    above.setdefault(multihash, []).append(pair)
        levels: list[Pairs] = []
        done: set[bytes] = set()
        while level and len(levels) < _DEEPEST:
            levels.append(level)
            done.update([multihash for multihash, _ in level])
            after: Pairs = []
            for multihash, _ in level:
                for pair in above.pop(multihash, ()):
                    waits[pair[0]] -= 1
                    if not waits[pair[0]]:
                        after.append(pair)
            level = after
        closed |= done
        return levels, [pair for pair in others if pair[0] not in done] if done else others

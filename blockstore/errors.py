"""Everything the blockstore raises.

StoreError
├── BadCid              not a CID, or one whose hash function is not known here
├── HashMismatch        bytes that are not what their CID says
├── Missing             an object or row that ought to be held is not
├── SchemaMismatch      the store was made by another schema version
├── WrongNetwork        the store belongs to another network or genesis
├── Unfinished          the store holds an import that has not ended
├── Fenced              a newer leader term exists: this writer must stop
├── StoreUnavailable    the backend does not answer (retry later)
├── StoreFull           no room left
├── BadExtension        a package that adds something here and cannot be used (the text names it)
├── DownloadFailed      a file cannot be downloaded, or is not what its publisher says
└── BadCar              a CAR file that is cut, corrupted or of a form not read here (`offset` in bytes)
"""

from __future__ import annotations


class StoreError(Exception):
    """The root of everything raised by `blockstore`."""


class BadCid(StoreError, ValueError):
    """Not a CID, or one whose hash function is not known here."""


class HashMismatch(StoreError):
    """Bytes that are not what their multihash says."""

    def __init__(self, multihash: bytes, data: bytes) -> None:
        super().__init__(f"{len(data)} bytes do not hash to multihash {multihash.hex()}")
        self.multihash = multihash


class Missing(StoreError, KeyError):
    """An object that ought to be held is not. `key` is its multihash or CID."""

    def __init__(self, key: bytes, what: str = "object") -> None:
        super().__init__(key, what)
        self.key = key
        self.what = what

    def __str__(self) -> str:
        # a CID knows its own text; it is not imported here, for it imports these errors
        name = self.key.hex() if type(self.key) is bytes else str(self.key)
        return f"{self.what} {name} is not held"


class SchemaMismatch(StoreError):
    """The store was made by another schema version."""


class WrongNetwork(StoreError):
    """The store belongs to another network, or its genesis is another."""


class Unfinished(StoreError):
    """The store holds an import that has not ended: nothing is served from it."""


class Fenced(StoreError):
    """A newer leader term exists, or another writer appended first."""


class BadExtension(StoreError):
    """An installed package adds a store, a method or a hook, and it cannot be used."""


class StoreUnavailable(StoreError):
    """The backend does not answer."""


class StoreFull(StoreError):
    """No room is left where the store lives."""


class DownloadFailed(StoreError):
    """A file cannot be downloaded, or it is not what its publisher says. The text holds no secret of the URL."""


class BadCar(StoreError, ValueError):
    """A CAR file that cannot be read. `offset` is in bytes of the (decompressed) stream."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} at byte offset {offset}")
        self.reason = reason
        self.offset = offset

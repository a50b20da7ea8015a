"""Replaces a file atomically: a reader finds the old one or the new one."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replace_file(path: Path, text: str) -> Iterator[Path]:
    """The path of a new file beside `path`, which takes its place when the block ends without an error.

    Its mode is that of the file it replaces, else 0644. Errors: OSError.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        mode = 0o644
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)

"""Where the recordings of real Lotus nodes are.

They are packed in `tests/recorded/`. The first use unpacks them all into `.cache/recorded/` of the checkout, once,
also where several processes ask at the same time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.recording_packs import PACKS, digest, unpack

_CACHE: Final = PACKS.parents[1] / ".cache" / "recorded"


@cache
def recorded_root() -> Path:
    """The folder of the recordings: `$RECORDED_DATA`, else the unpacked ones. Errors: OSError, BadPack."""
    given = os.environ.get("RECORDED_DATA")
    return Path(given) if given else unpacked(PACKS, _CACHE)


def recorded(name: str) -> Path:
    """The recorded file or folder `name`, e.g. `devnet/rpc.jsonl.zst`. Errors: FileNotFoundError, as recorded_root."""
    path = recorded_root() / name
    if not path.exists():
        raise FileNotFoundError(f"there is no recording {name} in {recorded_root()}")
    return path


def unpacked(packs: Path, caches: Path) -> Path:
    """The folder in `caches` that holds the files of all packs in `packs`; made where it is not there.

    Errors: OSError, BadPack.
    """
    found = sorted(packs.glob("*.tar.zst"))
    if not found:
        raise FileNotFoundError(f"there are no packs of recordings in {packs}")
    folder = caches / digest(found)
    if folder.exists():
        return folder
    caches.mkdir(parents=True, exist_ok=True)
    with (caches / "lock").open("w") as lock:
        # released when the file closes, also by a process that is killed
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder
        unfinished = caches / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        for pack in found:
            unpack(pack, unfinished)
        # the folder appears with everything in it or not at all
        unfinished.rename(folder)
    return folder

"""Imports a snapshot from an address: downloads it, imports it while it comes, checks it before it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from blockstore.errors import BadCar, DownloadFailed
from blockstore.store import Store
from leader_bridge.imports.download import Download, DownloadOptions, Restarted
from leader_bridge.imports.importer import ImportReport, import_car
from leader_bridge.imports.progress import Reporter, Silent

#: how often a file may begin anew while it is imported
_MOST_RESTARTS: Final = 5


async def import_from_url(
    store: Store,
    url: str,
    download_folder: Path,
    *,
    options: DownloadOptions | None = None,
    keep_file: bool = False,
    progress: Reporter | None = None,
    **arguments: Any,
) -> ImportReport:
    """Download `url` into `download_folder`, and import it meanwhile. `arguments` go to `import_car`.

    After a failure, the file stays (unless it is wrong), and the same call goes on with it. After success it is
    removed, unless `keep_file`. Errors: DownloadFailed, and what `import_car` raises.
    """
    shown = progress or Silent()
    for _ in range(_MOST_RESTARTS):
        download = Download(url, download_folder, options, shown.say)
        try:
            await download.open()
            report = await import_car(store, download.path, progress=shown, arriving=download, **arguments)
            if keep_file:
                shown.say(f"the file is kept: {download.keep()}")
            else:
                download.discard()
            return report
        except Restarted as error:
            shown.say(f"{download.shown}: {error}; beginning anew")
        except BadCar:
            # what comes behind the fault would not mend it
            download.discard()
            raise
        finally:
            await download.close()
    raise DownloadFailed(f"{download.shown} had to begin anew {_MOST_RESTARTS} times; try another address")

"""The notebook docs/notebooks/tables.ipynb: run as a reader runs it, on the tables of a recorded chain.

python -m tests.tables.notebook     # run it, and keep its outputs and the pictures of docs/tables.md
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import nbclient
import nbformat

from blockstore.memory import MemoryStore
from leader_bridge.imports.importer import import_car
from tests.support.paths import ROOT
from tests.support.recorded import recorded
from tests.support.tables.places import Place

NOTEBOOK: Final = ROOT / "docs" / "notebooks" / "tables.ipynb"
IMAGES: Final = ROOT / "docs" / "images"
#: the pictures in the order of the notebook
PICTURES: Final = ("tables-gas-by-method.svg", "tables-gas-money.svg", "tables-events.svg")
CHAIN: Final = "busy"
_TASKS: Final = ("block_headers", "parsed_messages", "gas_outputs", "events")
_SECONDS: Final = 120


async def make_tables(folder: Path) -> None:
    """The tables that the notebook asks, in `folder`/tables."""
    store = MemoryStore()
    car, network = recorded(f"{CHAIN}/chain.car.zst"), recorded(f"{CHAIN}/network.json")
    await import_car(store, car, network_file=network)
    await Place(f"parquet:{folder / 'tables'}").extract(store, *_TASKS)


def run_notebook(folder: Path) -> Any:
    """The notebook, run in `folder`. Errors: nbclient's CellExecutionError."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return notebook


def printed(notebook: Any) -> list[str]:
    """What each cell of code has printed."""
    return [
        "".join(out["text"] for out in cell["outputs"] if out["output_type"] == "stream")
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


def pictures(notebook: Any) -> list[str]:
    """The pictures that cells have drawn, as SVG."""
    return [
        out["data"]["image/svg+xml"]
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        for out in cell["outputs"]
        if "image/svg+xml" in out.get("data", {})
    ]


def main() -> int:
    """Run it and keep what it shows."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(make_tables(Path(folder)))
        notebook = run_notebook(Path(folder))
    for cell in notebook["cells"]:
        # times of this machine
        cell["metadata"].pop("execution", None)
    notebook["metadata"] = {"kernelspec": notebook["metadata"]["kernelspec"]}
    nbformat.write(notebook, NOTEBOOK)
    for name, picture in zip(PICTURES, pictures(notebook), strict=True):
        (IMAGES / name).write_text(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Shows how far a stage is: to people, in metrics, and for the status page."""

from __future__ import annotations

from leader_bridge.imports.progress import Reporter
from leader_bridge.sync import metrics


class StageProgress:
    """A `Reporter` that also keeps the figures. `text`: the stage in a few words."""

    def __init__(self, shown: Reporter) -> None:
        self._shown = shown
        self._stage = ""
        self._total: int | None = None
        self._unit = ""
        self.text = ""

    def phase(self, what: str, total: int | None, unit: str) -> None:
        """See `Reporter`."""
        self._shown.phase(what, total, unit)
        metrics.STAGE.clear()
        metrics.STAGE.labels(what).set(1)
        metrics.TOTAL.set(total or 0)
        self._stage, self._total, self._unit = what, total, unit
        self._note(0)

    def at(self, done: int, note: str = "") -> None:
        """See `Reporter`."""
        self._shown.at(done, note)
        self._note(done)

    def _note(self, done: int) -> None:
        metrics.DONE.set(done)
        of = f" of {self._total:,}" if self._total else ""
        self.text = f"{self._stage}: {done:,}{of} {self._unit}"

    def say(self, text: str) -> None:
        """See `Reporter`."""
        self._shown.say(text)

    def end(self) -> None:
        """See `Reporter`."""
        self._shown.end()
        metrics.STAGE.clear()

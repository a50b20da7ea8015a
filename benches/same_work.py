"""How fast this machine is while something else is measured: CPU time that one fixed piece of work takes then.

On virtual machines the same instructions take up to half as much CPU time again when the other core is busy; a cost
measured beside a busy neighbour is to be read against that.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

#: seconds between two pieces of work: it takes a twentieth of one core
_PAUSE: Final = 0.03


class Probe:
    """A process that does the work now and then. `micros` is CPU time of one piece, from the last `start` to `stop`."""

    def __init__(self) -> None:
        self.micros = 0.0

    @contextlib.contextmanager
    def measuring(self) -> Iterator[Probe]:
        """The work is done meanwhile."""
        process = subprocess.Popen(
            [sys.executable, "-m", "benches.same_work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            yield self
        finally:
            told, _ = process.communicate()  # its input ends
            self.micros = float(told)


def work() -> int:
    """The piece of work."""
    table = {number: str(number) for number in range(2000)}
    return sum(len(text) for text in table.values())


def main() -> None:
    """Work until the input ends, then print the mean CPU time in microseconds."""
    import select

    for _ in range(20):
        work()
    done, used = 0, 0.0
    while not select.select([sys.stdin], [], [], _PAUSE)[0]:
        before = time.thread_time()
        for _ in range(5):
            work()
        used += time.thread_time() - before
        done += 5
    print(used / max(done, 1) * 1e6)


if __name__ == "__main__":
    main()

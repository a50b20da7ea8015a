"""What other installed packages add: their entry points, found by group and loaded with errors that name the package.

Source: the Python packaging guide, "Entry points specification".
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from blockstore.errors import BadExtension

#: groups of entry points. Methods: a module whose import declares them
METHODS: Final = "lotus_follower.methods"
#: named by a URL scheme: a coroutine function that opens such a URL
STORES: Final = "lotus_follower.stores"
#: named by the hook: a `follower.TipsetHook` class
TIPSET_HOOKS: Final = "lotus_follower.tipset_hooks"


@dataclass(frozen=True, slots=True)
class Extension:
    """One entry point of another package. `package`: the name of its distribution."""

    group: str
    name: str
    package: str
    point: EntryPoint

    def load(self) -> Any:
        """The object that it names. Errors: BadExtension, whatever its import raises."""
        try:
            return self.point.load()
        except Exception as error:
            raise self.error(f"{type(error).__name__}: {error}") from error

    def error(self, reason: str) -> BadExtension:
        """An error that names the package and the entry point."""
        return BadExtension(
            f"package {self.package} cannot be used: its {self.group} entry point {self.name!r} ({self.point.value}):"
            f" {reason}. Mend it, or uninstall it: pip uninstall {self.package}"
        )


def find_extensions(group: str) -> list[Extension]:
    """The entry points of a group, by package and name. Errors: BadExtension (two packages with the same name)."""
    found = [
        Extension(group, point.name, point.dist.name if point.dist is not None else "(unknown)", point)
        for point in entry_points(group=group)
    ]
    # a package that is found in two folders of the path counts once, as for imports
    unique = {(one.package, one.name): one for one in reversed(found)}
    by_name: dict[str, Extension] = {}
    for _, one in sorted(unique.items()):
        other = by_name.setdefault(one.name, one)
        if other is not one:
            raise one.error(f"package {other.package} has one of the same name")
    return list(by_name.values())

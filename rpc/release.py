"""The version of this release, as `follower --version`, health answers, metrics and `Filecoin.Version` tell it."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

#: the name of the distribution
DISTRIBUTION: Final = "lotus-follower"
#: what the metric `follower_build_info` is
BUILD_INFO_DOC: Final = "1; its labels tell the versions of this software and of Python."


@cache
def software_version() -> str:
    """The installed version, such as "0.1.0"; "0.0.0" in a checkout that is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0.0.0"


def agent() -> str:
    """What a process calls itself, such as "lotus-follower/0.1.0"."""
    return f"{DISTRIBUTION}/{software_version()}"


def build_info() -> dict[str, str]:
    """The labels of the metric `follower_build_info`."""
    return {"version": software_version(), "python": platform.python_version()}

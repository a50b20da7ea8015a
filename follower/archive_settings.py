"""The settings of archives: files that are served in place, as a tier of objects under the store.

Part of the table in `follower.settings_table`.
"""

from __future__ import annotations

from typing import Final

from follower.setting import ARCHIVED, SERVE, Setting
from follower.setting_parsers import archive_names, parse_archives, parse_boolean, parse_text, whole_number

ARCHIVE_SETTINGS: Final = (
    Setting(
        "archive",
        parse_archives,
        "",
        ARCHIVED,
        "Files served in place below the store, separated by commas: paths or URLs (.forest.car.zst, indexed CARv2).",
        hide=archive_names,
    ),
    Setting(
        "archive_trust",
        parse_boolean,
        False,
        (*SERVE, "store index"),
        "Believe that a state is in an archive when its root is: the rows of a large archive take minutes, not hours.",
    ),
    Setting(
        "archive_memory_mb",
        whole_number(4, 1 << 20),
        64,
        ARCHIVED,
        "Memory for decompressed parts of archives, a process, in MiB.",
    ),
    Setting(
        "archive_cache_dir",
        parse_text,
        "data/archive-cache",
        ARCHIVED,
        "Folder of the cache of archives that are read over HTTP; the processes of a machine share it.",
    ),
    Setting("archive_cache_mb", whole_number(16, 1 << 30), 1024, ARCHIVED, "The size of that cache on disk, in MiB."),
)

"""The settings in force: the table's defaults, then the TOML file, the environment, the flags; the later wins.

`follower config` prints where each came from. An unknown key or a bad value is a SettingsError that names it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockstore.open import SharedStoreOptions
from follower.setting import ENV_PREFIX, Setting
from follower.settings_table import BY_NAME, SETTINGS


class SettingsError(Exception):
    """A setting that cannot be used; the text names it and where it came from."""


class CannotRun(Exception):
    """Something the operator must change before this can run; the text says what."""


@contextmanager
def reading(name: str, path: str) -> Iterator[Path]:
    """Read the file that the setting `name` names. Errors: CannotRun, for an OSError or a ValueError of the block."""
    try:
        yield Path(path)
    except OSError as error:
        raise CannotRun(f"{name} {path}: {error.strerror}") from None
    except ValueError as error:
        raise CannotRun(f"{name} {path}: {error}") from None


@dataclass(frozen=True, slots=True)
class Value:
    """A setting's value and where it came from."""

    value: Any
    source: str


class Settings:
    """The values in force. `settings["store"]`; `settings.source("store")`.

    `command`: the subcommand that runs. It reads only the settings that name it in the table, for it has flags for
    those alone; without one every setting can be read.
    """

    def __init__(self, values: Mapping[str, Value], command: str | None = None) -> None:
        self._values = dict(values)
        self._command = command

    def __getitem__(self, name: str) -> Any:
        """A value. Errors: KeyError (no such setting, or not one of this subcommand)."""
        if self._command is not None and not BY_NAME[name].is_used_by(self._command):
            raise KeyError(f"the settings table does not give {name!r} to follower {self._command}")
        return self._values[name].value

    def text_of(self, name: str) -> str:
        """A value as text, secrets included; "" where this subcommand does not read it."""
        is_read = self._command is None or BY_NAME[name].is_used_by(self._command)
        return str(self._values[name].value) if is_read else ""

    def source(self, name: str) -> str:
        """ "default", the file's name, the environment variable, or the flag."""
        return self._values[name].source

    def shown(self, name: str) -> str:
        """A value as text for people and logs, without secrets."""
        return BY_NAME[name].shown(self._values[name].value)

    def with_value(self, name: str, value: Any, source: str) -> Settings:
        """The same settings with another value; `source`: where it comes from."""
        return Settings({**self._values, name: Value(value, source)}, self._command)

    def table(self) -> list[tuple[Setting, str, str]]:
        """(setting, printable value, source) of every setting; secrets are hidden."""
        rows = []
        for setting in SETTINGS:
            found = self._values[setting.name]
            shown = repr(found.value if setting.hide is None else setting.hide(found.value))
            rows.append((setting, shown, found.source))
        return rows

    def environment(self) -> dict[str, str]:
        """The values that are not defaults, as environment variables for child processes. Holds secrets."""
        out = {}
        for setting in SETTINGS:
            value = self._values[setting.name]
            if value.source != "default":
                out[setting.env] = str(value.value)
        return out


def _parsed(setting: Setting, raw: Any, source: str) -> Value:
    try:
        return Value(setting.parse(raw), source)
    except ValueError as error:
        shown = "" if setting.hide is not None else f" is {raw!r}, which"
        raise SettingsError(f"{source}: {setting.name}{shown} {error}") from None


def load_settings(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> Settings:
    """Defaults, then the TOML file, the environment, the flags. `command`: see `Settings`. Errors: SettingsError."""
    environment = os.environ if environment is None else environment
    values = {setting.name: Value(setting.default, "default") for setting in SETTINGS}
    if file is not None:
        try:
            with open(file, "rb") as stream:
                table = tomllib.load(stream)
        except OSError as error:
            raise SettingsError(f"{file}: {error.strerror}") from None
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{file}: {error}") from None
        for name, raw in table.items():
            if name not in BY_NAME:
                raise SettingsError(f"{file}: unknown setting {name!r}{_nearest(name)}")
            values[name] = _parsed(BY_NAME[name], raw, str(file))
    known = {setting.env for setting in SETTINGS} | {ENV_PREFIX + "CONFIG"}
    for variable in sorted(environment):
        if variable.startswith(ENV_PREFIX) and variable not in known:
            raise SettingsError(f"environment: unknown setting {variable}")
    for setting in SETTINGS:
        for variable in (*setting.aliases, setting.env):
            if environment.get(variable):
                values[setting.name] = _parsed(setting, environment[variable], variable)
    for name, raw in (flags or {}).items():
        if raw is not None:
            values[name] = _parsed(BY_NAME[name], raw, BY_NAME[name].flag)
    return Settings(values, command)


def _nearest(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, BY_NAME, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def shared_options(settings: Settings) -> SharedStoreOptions:
    """What `open_store` takes for a shared store. Errors: CannotRun (values that cannot hold together)."""
    if settings["delta_ms"] <= 2 * settings["epsilon_ms"]:
        raise CannotRun(
            f"delta_ms is {settings['delta_ms']}, epsilon_ms {settings['epsilon_ms']}: delta_ms must be more than "
            "twice epsilon_ms"
        )
    return SharedStoreOptions(settings["delta_ms"], settings["epsilon_ms"], settings["replication"])


def split_listen(text: str) -> tuple[str, int]:
    """HOST and PORT; brackets around an IPv6 host are taken off."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def jwt_secret(settings: Settings) -> bytes | None:
    """The secret of tokens; None where no file is named. Errors: CannotRun (the file)."""
    path = settings["jwt_secret_file"]
    if not path:
        return None
    with reading("jwt_secret_file", path) as file:
        secret = file.read_bytes().strip()
        if len(secret) < 16:
            raise ValueError("fewer than 16 bytes are no secret")
    return secret

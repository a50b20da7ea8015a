"""Every setting, in one table: its name, type, default, and what it is for.

A value comes from the default, the TOML file, the environment, or a flag; the later wins, and `follower config`
prints where each came from. An unknown key or a bad value is a SettingsError that names it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blockstore.open import Shared
from rpc.client.node_info import parse_node_info
from rpc.server.client_address import PRIVATE, networks

#: environment variables are the setting's name in capitals behind this
ENV_PREFIX: Final = "FOLLOWER_"


class SettingsError(Exception):
    """A setting that cannot be used; the text names it and where it came from."""


class CannotRun(Exception):
    """Something the operator must change before this can run; the text says what."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value


def _whole(minimum: int, maximum: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool):
            raise ValueError("must be a whole number")
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise ValueError("must be a whole number") from None
        if isinstance(value, float) and number != value:
            raise ValueError("must be a whole number")
        if not minimum <= number <= maximum:
            raise ValueError(f"must be from {minimum} to {maximum}")
        return number

    return parse


def _seconds(minimum: float, maximum: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError("must be a number") from None
        if not minimum <= number <= maximum:
            raise ValueError(f"must be from {minimum:g} to {maximum:g}")
        return number

    return parse


def _one_of(*choices: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return parse


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("1", "true", "yes", "on"):
        return True
    if str(value).lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("must be true or false")


def _store(value: Any) -> str:
    text = _text(value)
    scheme, sep, rest = text.partition("://")
    if not sep or scheme not in ("lmdb", "cassandra", "memory") or not rest:
        raise ValueError("must be a store URL such as lmdb:///var/lib/follower")
    return text


def _listen(value: Any) -> str:
    text = _text(value)
    host, sep, port = text.rpartition(":")
    if not sep or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT such as 127.0.0.1:1234")
    return text


def _optional_listen(value: Any) -> str:
    return "" if value == "" else _listen(value)


def _networks(value: Any) -> str:
    text = ",".join(_text(item).strip() for item in (value if isinstance(value, list) else _text(value).split(",")))
    try:
        networks(text)
    except ValueError as error:
        raise ValueError(f"must be networks such as 10.0.0.0/8, separated by commas: {error}") from None
    return text


def _node(value: Any) -> str:
    if isinstance(value, list):
        value = ",".join(_text(item) for item in value)
    text = _text(value)
    if text:
        parse_node_info(text)
    return text


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `secret` values are never printed; `aliases` are further environment variables."""

    name: str
    parse: Callable[[Any], Any]
    default: Any
    doc: str
    aliases: tuple[str, ...] = ()
    secret: bool = False

    @property
    def env(self) -> str:
        """Its environment variable."""
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """Its command-line flag."""
        return "--" + self.name.replace("_", "-")


SETTINGS: Final = (
    Setting(
        "store",
        _store,
        "lmdb://data/store",
        "Where the chain is kept: lmdb:///path (a relative path: lmdb://path).",
    ),
    Setting(
        "node",
        _node,
        "",
        "Full nodes to follow, best first, separated by commas: TOKEN:ADDR, multiaddr or URL.",
        aliases=("FULLNODE_API_INFO",),
        secret=True,
    ),
    Setting("listen", _listen, "127.0.0.1:1234", "Where JSON-RPC is served."),
    Setting("workers", _whole(1, 256), 1, "Serving processes on the same port."),
    Setting(
        "state",
        _one_of("full", "lazy"),
        "full",
        "full: the bridge mirrors every new state; lazy: a state object is fetched when first asked for.",
    ),
    Setting(
        "backfill",
        _whole(0, 10_000_000),
        1000,
        "Epochs below its first head that a bridge of an empty store fetches too.",
    ),
    Setting(
        "actor_code",
        _flag,
        True,
        "Mirror the code of built-in actors too (some MB a network upgrade; ChainStatObj of a state counts it).",
    ),
    Setting(
        "traces",
        _one_of("off", "on"),
        "off",
        "on: the bridge asks the node for each tipset's traces once and keeps them; off: trace_* needs a node.",
    ),
    Setting(
        "trace_lookback",
        _whole(1, 100_000_000),
        2880,
        "Epochs below the head whose traces are recorded and kept.",
    ),
    Setting(
        "network_file",
        _text,
        "",
        "The network's name and upgrade schedule (network.json), for a private network.",
    ),
    Setting("fetch_concurrency", _whole(1, 1024), 8, "Requests in flight to a full node."),
    Setting("fetch_batch", _whole(1, 1000), 256, "Objects asked for in one request to a full node."),
    Setting("node_timeout", _seconds(0.1, 600), 30.0, "Seconds until a full node counts as not answering."),
    Setting(
        "poll_interval",
        _seconds(0.05, 600),
        5.0,
        "Seconds between ChainHead calls where a node has no WebSocket.",
    ),
    Setting("object_cache_mb", _whole(1, 1 << 20), 256, "Memory for objects, a process, in MiB."),
    Setting("max_body_mb", _whole(1, 1024), 100, "The largest request body, in MiB."),
    Setting("max_batch", _whole(1, 1_000_000), 10_000, "The most requests in one batch."),
    Setting("max_in_flight", _whole(1, 1_000_000), 1024, "Requests worked on at once, a process."),
    Setting("max_filters", _whole(1, 1_000_000), 4096, "Installed Ethereum filters, of all clients of the store."),
    Setting("filter_ttl", _seconds(1, 30 * 86_400), 3600.0, "Seconds until a filter that nobody polls is forgotten."),
    Setting(
        "filters_per_client",
        _whole(1, 1_000_000),
        100,
        "Installed Ethereum filters that one client (by its address) may have in the store.",
    ),
    Setting(
        "filters_per_connection",
        _whole(0, 10_000),
        16,
        "Filters and subscriptions that one WebSocket session may have.",
    ),
    Setting(
        "trusted_proxies",
        _networks,
        ",".join(PRIVATE),
        "Networks of balancers whose X-Forwarded-For is believed.",
    ),
    Setting(
        "jwt_secret_file",
        _text,
        "",
        "File with the HS256 secret of API tokens; without one every caller may read.",
    ),
    Setting("admin_listen", _text, "", "HOST:PORT of the administration API; empty for none."),
    Setting(
        "ready_lag",
        _whole(1, 100_000),
        5,
        "Epochs behind the followed node's head at which a follower is not ready.",
    ),
    Setting("drain_seconds", _seconds(0, 600), 30.0, "Seconds a stopping follower takes to finish what it has."),
    Setting(
        "drain_notice_seconds",
        _seconds(0, 600),
        3.0,
        "Of drain_seconds, how long a stopping member of a fleet still takes requests, for balancers to notice.",
    ),
    Setting(
        "fleet",
        _one_of("auto", "on", "off"),
        "auto",
        "Register for load balancers: on, off, or auto: over a shared store, or with advertise or agent_listen set.",
    ),
    Setting("advertise", _optional_listen, "", "HOST:PORT under which balancers reach this follower; empty: listen."),
    Setting(
        "agent_listen", _optional_listen, "", "HOST:PORT where HAProxy's agent checks are answered; empty for none."
    ),
    Setting("renew_seconds", _seconds(0.05, 60), 5.0, "Seconds between renewals of a follower's registration."),
    Setting(
        "map_size_gb",
        _whole(1, 1 << 16),
        1024,
        "The most an LMDB store may grow to, in GiB (address space, not disk).",
    ),
    Setting("delta_ms", _whole(1, 600_000), 500, "Milliseconds from a head's writing to its showing, shared store."),
    Setting(
        "epsilon_ms",
        _whole(1, 100_000),
        50,
        "The most that clocks of a shared store's machines differ, in milliseconds; below half of delta_ms.",
    ),
    Setting("replication", _whole(1, 100), 1, "Copies of what a shared store holds, where its tables are made."),
    Setting(
        "lease_seconds",
        _seconds(0.1, 600),
        5.0,
        "A bridge of a shared store leads until it has not renewed for so long.",
    ),
    Setting("log_level", _one_of("debug", "info", "warning", "error"), "info", "What is logged."),
    Setting("metrics_listen", _text, "", "HOST:PORT of a bridge's own /metrics; empty for none."),
)

BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Value:
    """A setting's value and where it came from."""

    value: Any
    source: str


class Settings:
    """The values in force. `settings["store"]`; `settings.source("store")`."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name].value

    def source(self, name: str) -> str:
        """ "default", the file's name, the environment variable, or the flag."""
        return self._values[name].source

    def table(self) -> list[tuple[Setting, str, str]]:
        """(setting, printable value, source) of every setting; secrets are hidden."""
        rows = []
        for setting in SETTINGS:
            found = self._values[setting.name]
            shown = "(set, hidden)" if setting.secret and found.value else repr(found.value)
            rows.append((setting, shown, found.source))
        return rows

    def environment(self) -> dict[str, str]:
        """The values as environment variables, for worker processes."""
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
        shown = "" if setting.secret else f" is {raw!r}, which"
        raise SettingsError(f"{source}: {setting.name}{shown} {error}") from None


def load_settings(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Defaults, then the TOML file, the environment, the flags. Errors: SettingsError."""
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
    return Settings(values)


def _nearest(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, BY_NAME, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def shared_options(settings: Settings) -> Shared:
    """What `open_store` is told about a shared store. Errors: CannotRun (values that cannot hold together)."""
    if settings["delta_ms"] <= 2 * settings["epsilon_ms"]:
        raise CannotRun(
            f"delta_ms is {settings['delta_ms']}, epsilon_ms {settings['epsilon_ms']}: delta_ms must be more than "
            "twice epsilon_ms"
        )
    return Shared(settings["delta_ms"], settings["epsilon_ms"], settings["replication"])


def split_listen(text: str) -> tuple[str, int]:
    """HOST and PORT; brackets around an IPv6 host are taken off."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)

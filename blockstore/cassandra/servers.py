"""Which server answers, and what its errors mean: one table for Apache Cassandra, ScyllaDB and YugabyteDB.

Codes are those of the native protocol. Texts are parts of the server's message, in small letters; they were taken from
the sources of the servers (docs/databases.md says of which versions).
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import Final


class Server(enum.Enum):
    """A database that speaks CQL."""

    CASSANDRA = "Apache Cassandra"
    SCYLLADB = "ScyllaDB"
    YUGABYTEDB = "YugabyteDB"
    UNKNOWN = "an unknown server"


#: tables of the keyspace `system` that only one server has. YugabyteDB names Cassandra's partitioner, and has another
_TELLTALES: Final = (("partitions", Server.YUGABYTEDB), ("scylla_local", Server.SCYLLADB))
_MURMUR3: Final = "org.apache.cassandra.dht.Murmur3Partitioner"


def server_of(partitioner: str, system_tables: Collection[str]) -> Server:
    """Which server has this partitioner (`system.local`) and these tables in the keyspace `system`."""
    for name, server in _TELLTALES:
        if name in system_tables:
            return server
    return Server.CASSANDRA if partitioner == _MURMUR3 else Server.UNKNOWN


def has_known_partitioner(server: Server) -> bool:
    """Whether a driver can tell from a key which nodes hold its row."""
    return server in (Server.CASSANDRA, Server.SCYLLADB)


class Meaning(enum.Enum):
    """What an error says about the statement."""

    #: the keyspace or a table is not there yet
    NOT_MADE = "not made"
    #: the tables are those of another version
    OTHER_SCHEMA = "other schema"
    #: it may have been applied, or may be later
    UNSETTLED = "unsettled"
    #: the server will never do it
    REFUSED = "refused"
    #: the role in use may not
    FORBIDDEN = "forbidden"
    #: the server cannot do it now, and has not done it
    UNAVAILABLE = "unavailable"


SERVER_ERROR: Final = 0x0000
PROTOCOL_ERROR: Final = 0x000A
BAD_CREDENTIALS: Final = 0x0100
UNAVAILABLE: Final = 0x1000
OVERLOADED: Final = 0x1001
IS_BOOTSTRAPPING: Final = 0x1002
TRUNCATE_ERROR: Final = 0x1003
WRITE_TIMEOUT: Final = 0x1100
READ_TIMEOUT: Final = 0x1200
READ_FAILURE: Final = 0x1300
FUNCTION_FAILURE: Final = 0x1400
WRITE_FAILURE: Final = 0x1500
SYNTAX_ERROR: Final = 0x2000
UNAUTHORIZED: Final = 0x2100
INVALID: Final = 0x2200
CONFIG_ERROR: Final = 0x2300
ALREADY_EXISTS: Final = 0x2400
UNPREPARED: Final = 0x2500
#: the driver had no answer: a connection that broke, a request that timed out
NO_ANSWER: Final = -1

#: (server, or None for each; code; part of the text, or "" for each) -> meaning. The first row that fits counts
ERRORS: Final[tuple[tuple[Server | None, int, str, Meaning], ...]] = (
    # YugabyteDB tells nearly everything that goes wrong in execution as an invalid query; what passes comes first
    (Server.YUGABYTEDB, INVALID, "timed out", Meaning.UNSETTLED),
    (Server.YUGABYTEDB, INVALID, "stale metadata", Meaning.UNSETTLED),
    (Server.YUGABYTEDB, INVALID, "wrong metadata version", Meaning.UNSETTLED),
    (Server.YUGABYTEDB, INVALID, "tablet not found", Meaning.UNSETTLED),
    (Server.YUGABYTEDB, INVALID, "restart required", Meaning.UNSETTLED),
    (Server.YUGABYTEDB, INVALID, "unprepared statement", Meaning.UNSETTLED),
    (Server.YUGABYTEDB, INVALID, "object not found", Meaning.NOT_MADE),
    (Server.YUGABYTEDB, INVALID, "keyspace not found", Meaning.NOT_MADE),
    (Server.YUGABYTEDB, INVALID, "undefined column", Meaning.OTHER_SCHEMA),
    (Server.YUGABYTEDB, INVALID, "unauthorized", Meaning.FORBIDDEN),
    (Server.YUGABYTEDB, INVALID, "execution error", Meaning.UNSETTLED),
    # what is said by each server in its own words, and by none in another sense
    (None, INVALID, "undefined column", Meaning.OTHER_SCHEMA),
    (None, INVALID, "unknown identifier", Meaning.OTHER_SCHEMA),
    (None, INVALID, "unrecognized name", Meaning.OTHER_SCHEMA),
    (None, INVALID, "unconfigured table", Meaning.NOT_MADE),
    (None, INVALID, "does not exist", Meaning.NOT_MADE),
    (None, INVALID, "object not found", Meaning.NOT_MADE),
    (None, INVALID, "keyspace not found", Meaning.NOT_MADE),
    (None, INVALID, "undefined", Meaning.NOT_MADE),
    (None, INVALID, "stale metadata", Meaning.UNSETTLED),
    (None, INVALID, "timed out", Meaning.UNSETTLED),
    (None, INVALID, "", Meaning.REFUSED),
    (None, SYNTAX_ERROR, "", Meaning.REFUSED),
    (None, CONFIG_ERROR, "", Meaning.REFUSED),
    (None, ALREADY_EXISTS, "", Meaning.REFUSED),
    (None, FUNCTION_FAILURE, "", Meaning.REFUSED),
    (None, PROTOCOL_ERROR, "", Meaning.REFUSED),
    (None, UNAUTHORIZED, "", Meaning.FORBIDDEN),
    (None, BAD_CREDENTIALS, "", Meaning.FORBIDDEN),
    (None, UNAVAILABLE, "", Meaning.UNAVAILABLE),
    (None, OVERLOADED, "", Meaning.UNAVAILABLE),
    (None, IS_BOOTSTRAPPING, "", Meaning.UNAVAILABLE),
    (None, UNPREPARED, "", Meaning.UNAVAILABLE),
    # write and read time-outs and failures, server errors, broken connections
    (None, SERVER_ERROR, "", Meaning.UNSETTLED),
    (None, TRUNCATE_ERROR, "", Meaning.UNSETTLED),
    (None, WRITE_TIMEOUT, "", Meaning.UNSETTLED),
    (None, WRITE_FAILURE, "", Meaning.UNSETTLED),
    (None, READ_TIMEOUT, "", Meaning.UNSETTLED),
    (None, READ_FAILURE, "", Meaning.UNSETTLED),
    (None, NO_ANSWER, "", Meaning.UNSETTLED),
)


def meaning(server: Server, code: int, text: str) -> Meaning:
    """What an error means. A code that the table does not know is unsettled: nothing is assumed."""
    text = text.lower()
    for of, number, part, found in ERRORS:
        if of in (None, server) and number == code and part in text:
            return found
    return Meaning.UNSETTLED

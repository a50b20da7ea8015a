"""What the errors of each server mean, which server is which, and a keyspace that each of them accepts."""

from __future__ import annotations

from typing import Any

import pytest
from cassandra import InvalidRequest

from blockstore.cassandra import schema, servers
from blockstore.cassandra.servers import ERRORS, Meaning, Server, has_known_partitioner, meaning, server_of
from blockstore.cassandra.session import Forbidden, OutcomeUnknown, SchemaMissing, error_of
from blockstore.errors import SchemaMismatch, StoreError, StoreUnavailable

C, S, Y, U = Server.CASSANDRA, Server.SCYLLADB, Server.YUGABYTEDB, Server.UNKNOWN
MURMUR = "org.apache.cassandra.dht.Murmur3Partitioner"

#: what servers say, in full
SAID = [
    (C, servers.INVALID, "unconfigured table head", Meaning.NOT_MADE),
    (C, servers.INVALID, "Keyspace 'filecoin' does not exist", Meaning.NOT_MADE),
    (C, servers.INVALID, "keyspace filecoin does not exist", Meaning.NOT_MADE),
    (C, servers.INVALID, "Undefined column name term in table ks.head", Meaning.OTHER_SCHEMA),
    (C, servers.WRITE_TIMEOUT, "Operation timed out - received only 1 responses.", Meaning.UNSETTLED),
    (C, servers.WRITE_FAILURE, "Operation failed - received 0 responses and 1 failures", Meaning.UNSETTLED),
    (C, servers.READ_TIMEOUT, "Operation timed out - received only 0 responses.", Meaning.UNSETTLED),
    (C, servers.UNAVAILABLE, "Cannot achieve consistency level QUORUM", Meaning.UNAVAILABLE),
    (C, servers.OVERLOADED, "Too many hints in flight", Meaning.UNAVAILABLE),
    (C, servers.SYNTAX_ERROR, "line 1:0 no viable alternative at input 'SELEC'", Meaning.REFUSED),
    (C, servers.INVALID, "Key may not be empty", Meaning.REFUSED),
    (C, servers.UNAUTHORIZED, "User web has no MODIFY permission on <table ks.head>", Meaning.FORBIDDEN),
    (C, servers.BAD_CREDENTIALS, "Provided username x and/or password are incorrect", Meaning.FORBIDDEN),
    (S, servers.INVALID, "unconfigured table head", Meaning.NOT_MADE),
    (S, servers.INVALID, "Can't find a keyspace filecoin: it does not exist", Meaning.NOT_MADE),
    (S, servers.INVALID, "Unrecognized name term", Meaning.OTHER_SCHEMA),
    (S, servers.INVALID, "Unknown identifier term", Meaning.OTHER_SCHEMA),
    (S, servers.INVALID, "ks.head: LWT is not yet supported with tablets", Meaning.REFUSED),
    (S, servers.CONFIG_ERROR, "SimpleStrategy doesn't support tablet replication", Meaning.REFUSED),
    (S, servers.WRITE_TIMEOUT, "Operation timed out for ks.head - received only 0 responses from 1", Meaning.UNSETTLED),
    (S, servers.NO_ANSWER, "Request timed out", Meaning.UNSETTLED),
    (Y, servers.INVALID, "Object Not Found. Table ks.head not found", Meaning.NOT_MADE),
    (Y, servers.INVALID, "Keyspace Not Found. filecoin", Meaning.NOT_MADE),
    (Y, servers.INVALID, "Undefined Column. Column doesn't exist", Meaning.OTHER_SCHEMA),
    (Y, servers.INVALID, "Execution Error. Write(tablet: 1) passed its deadline", Meaning.UNSETTLED),
    (Y, servers.INVALID, "Timed out. UpdateConsensus", Meaning.UNSETTLED),
    (Y, servers.INVALID, "Query failed to execute due to stale metadata cache", Meaning.UNSETTLED),
    (Y, servers.INVALID, "Wrong Metadata Version. Schema version mismatch", Meaning.UNSETTLED),
    (Y, servers.INVALID, "Restart Required", Meaning.UNSETTLED),
    (Y, servers.INVALID, "Tablet Not Found", Meaning.UNSETTLED),
    (Y, servers.SERVER_ERROR, "Timed out", Meaning.UNSETTLED),
    (Y, servers.SYNTAX_ERROR, "Feature Not Supported", Meaning.REFUSED),
    (Y, servers.INVALID, "Datatype Mismatch", Meaning.REFUSED),
    (Y, servers.UNAUTHORIZED, "Unauthorized. User web has no MODIFY permission", Meaning.FORBIDDEN),
    # before it is known who answers
    (U, servers.INVALID, "Object Not Found", Meaning.NOT_MADE),
    (U, servers.INVALID, "Query failed to execute due to stale metadata cache", Meaning.UNSETTLED),
    (U, 0x7777, "what is this", Meaning.UNSETTLED),
]


@pytest.mark.parametrize(("server", "code", "text", "means"), SAID)
def test_what_an_error_means(server: Server, code: int, text: str, means: Meaning) -> None:
    assert meaning(server, code, text) is means


def test_every_row_of_the_table_can_be_reached() -> None:
    for number, (server, code, part, means) in enumerate(ERRORS):
        for earlier, other, text, _ in ERRORS[:number]:
            hidden = earlier in (None, server) and other == code and text in part
            assert not hidden, f"row {number} is hidden"
        assert meaning(server or U, code, part) is means


@pytest.mark.parametrize(
    ("means", "conditional", "kind"),
    [
        (Meaning.NOT_MADE, True, SchemaMissing),
        (Meaning.OTHER_SCHEMA, True, SchemaMismatch),
        (Meaning.FORBIDDEN, True, Forbidden),
        (Meaning.REFUSED, True, StoreError),
        (Meaning.UNSETTLED, True, OutcomeUnknown),
        # a compare-and-set is settled by an answer to it, by nothing else
        (Meaning.UNAVAILABLE, True, OutcomeUnknown),
        (Meaning.UNSETTLED, False, StoreUnavailable),
        (Meaning.UNAVAILABLE, False, StoreUnavailable),
    ],
)
def test_each_meaning_is_an_error_of_its_own(means: Meaning, conditional: bool, kind: type[StoreError]) -> None:
    said = [(server, code, text) for server, code, text, other in SAID if other is means]
    assert {type(error_of(*one, "cassandra://x/ks", conditional=conditional)) for one in said} == {kind}


def test_which_server_it_is() -> None:
    assert server_of(MURMUR, {"local", "peers"}) is C
    assert server_of(MURMUR, {"local", "scylla_local"}) is S
    # it names Cassandra's partitioner, and has another
    assert server_of(MURMUR, {"local", "partitions"}) is Y
    assert server_of("com.example.Partitioner", {"local"}) is U
    assert [has_known_partitioner(one) for one in (C, S, Y, U)] == [True, True, False, False]


class Administered:
    """A server that takes no SimpleStrategy, as ScyllaDB with tablets."""

    def __init__(self, refuses: str) -> None:
        self.refuses = refuses
        self.done: list[str] = []

    def execute(self, cql: str) -> Any:
        if "data_center" in cql:
            return self
        if self.refuses and self.refuses in cql:
            raise InvalidRequest(f"{self.refuses} doesn't support tablet replication")
        self.done.append(cql)
        return self

    def one(self) -> tuple[str]:
        return ("dc-1",)


def test_a_keyspace_that_each_server_accepts() -> None:
    statement = schema.keyspace_statement("ks", 3)
    for refuses in ("", "SimpleStrategy"):
        server = Administered(refuses)
        schema._run_one(server, "ks", statement, 3)
        assert ("'SimpleStrategy'" in server.done[0]) == (not refuses)
        assert ("'NetworkTopologyStrategy', 'dc-1': 3" in server.done[0]) == bool(refuses)
    with pytest.raises(InvalidRequest):
        schema._run_one(Administered("CREATE KEYSPACE"), "ks", statement, 3)

"""A real Cassandra for tests: `CASSANDRA_HOSTS` (host[,host][:port]) names one, else the tests are skipped, saying so."""

from __future__ import annotations

import os

import pytest


def cassandra_hosts() -> str:
    """`host[,host][:port]`. Skips the test where there is none; fails it when REQUIRE_SERVERS=1."""
    hosts = os.environ.get("CASSANDRA_HOSTS", "")
    if not hosts:
        reason = "set CASSANDRA_HOSTS=host[,host][:port] to run this on a Cassandra (5.0, Scylla or YCQL)"
        if os.environ.get("REQUIRE_SERVERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return hosts

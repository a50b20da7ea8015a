"""`cqlsh HOST -u USER -p PASSWORD` with `-f FILE` or `-e STATEMENT`: the statements run on the real server."""

from __future__ import annotations

import argparse
from pathlib import Path

from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster

parser = argparse.ArgumentParser(prog="cqlsh")
parser.add_argument("host")
parser.add_argument("-u", dest="user", required=True)
parser.add_argument("-p", dest="password", required=True)
parser.add_argument("-f", dest="file", type=Path)
parser.add_argument("-e", dest="statement", default="")
arguments = parser.parse_args()
text = arguments.file.read_text() if arguments.file else arguments.statement
with Cluster([arguments.host], auth_provider=PlainTextAuthProvider(arguments.user, arguments.password)) as cluster:
    session = cluster.connect()
    for statement in filter(None, (one.strip() for one in text.split(";"))):
        session.execute(statement, timeout=60)

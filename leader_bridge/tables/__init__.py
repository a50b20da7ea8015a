"""Tables for analysts: what the chain holds as rows, in Parquet files or PostgreSQL, with Lily's names and columns.

`table` says what a table is; one file a family of tables (`blocks`, `messages`, `executed`, `events`, `actors`,
`miners`, `power`, `market`, `contracts`) makes its rows; `catalogue` lists them; `source` is what they read of a
store; `extract` runs them over a range of epochs, `jobs` one tipset at a time; `sinks` writes rows.
Source of names, columns and types: Lily, `schemas/v1` and `model`.
"""

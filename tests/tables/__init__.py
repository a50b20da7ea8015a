"""Tables for analysts: against recorded answers of Lotus, in Parquet and in a real PostgreSQL."""

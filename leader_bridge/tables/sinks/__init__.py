"""Where rows go: Parquet files (`parquet_files`) or PostgreSQL (`postgres`). `sink` is what both promise; `opening`
opens the one that a text names. Their libraries are optional, so each is imported when it is first used."""

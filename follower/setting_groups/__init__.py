"""Settings of one subject each, parts of the table in `follower.settings_table`."""

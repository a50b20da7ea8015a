"""The serving process, settings, the command line."""

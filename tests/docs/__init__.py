"""The docs against the code: generated tables, links, names of commands, the contributor's recipes."""

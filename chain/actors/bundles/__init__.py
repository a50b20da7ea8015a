"""The code CIDs of built-in actors that Lotus embeds, one file `vN.json` an actors version.

A file maps each network's name to its manifest and its codes by name. Here lives data, and in `__main__` what
makes a file from Lotus' source; `chain.actors.codes` reads them.
"""

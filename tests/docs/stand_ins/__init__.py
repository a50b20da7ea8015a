"""Commands of a Debian machine for tests that run a page, where the real ones need root or a whole system.

Each is a script of its own that needs no other file of the tree. `MACHINE` names the folder of the machine.
"""

"""Attacks on a real follower process, by real clients in processes of their own.

`python -m tests.attack` runs every case and prints the table of docs/security.md; `test_attack.py` is the short form.
"""

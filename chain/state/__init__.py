"""The state tree, and what is read with its help: senders and emitters as actors.

Actor states live in `chain/actors`.
"""

"""Looking after a store: figures, checks and repairs, copies, backups. `follower store` runs them.

They work beside whatever serves the store and writes to it, or say that they cannot.
"""

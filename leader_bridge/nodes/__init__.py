"""Full nodes as the bridge uses them: ranked sources of verified objects, and subscriptions to head changes.

Nothing here knows the store's rows or writes to it.
"""

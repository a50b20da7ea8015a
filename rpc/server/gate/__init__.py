"""Who may ask what, and how much: tenants and their keys, lists of methods, rates, look-backs.

`gate.Gate` runs before each call. It takes nothing on: budgets of memory and concurrency are `rpc.admission`'s.
"""

"""The executor: one process a machine that runs messages in the virtual machine for all workers.

No method is here; what to run and what it means is in `rpc/execution`.
"""

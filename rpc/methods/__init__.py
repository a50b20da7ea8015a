"""One module a family of JSON-RPC methods; importing this package registers them all.
"""

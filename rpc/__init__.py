"""The wire: dispatch, HTTP and WebSocket servers, channels, limits, Lotus JSON, OpenRPC, the client of a
full node. `rpc/methods/` holds one file a family of methods. Imports: `chain`, `blockstore`.
"""

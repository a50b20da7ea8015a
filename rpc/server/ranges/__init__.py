"""Giving ranges of tipsets and batches of objects to other stores: `/range` and `/obj`, for those who have a token.

`wire` says what goes over the wire; a client of it (`leader_bridge.sync`) imports that and `window`. Off by default.
"""

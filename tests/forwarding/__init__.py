"""Forwarding to several full nodes: ranking, hedging, failures, writes."""

"""Played nodes."""

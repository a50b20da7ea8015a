"""Lookups of events: the criteria of a filter, the search over the event rows, the events of a head change."""

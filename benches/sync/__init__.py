"""Measures the filling of a store from several sources."""

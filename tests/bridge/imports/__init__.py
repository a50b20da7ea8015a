"""Importing CAR files: whole, cut, killed; what an import closes and in which order."""

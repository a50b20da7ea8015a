"""The object tier of a serving process: opened by its settings, with its metrics, and the objects given to peers."""

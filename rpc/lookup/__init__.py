"""What several methods look up: tipsets by block parameter, executed messages, events, filters.

Nothing here declares a method."""

"""Real clients against a follower."""

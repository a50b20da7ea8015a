"""What clients, and the full nodes behind a follower, can do to others' response times."""

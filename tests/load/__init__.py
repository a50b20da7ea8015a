"""`follower bench` and `follower plan`, and the model of capacity."""

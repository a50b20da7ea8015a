"""Sessions over a WebSocket, and what is pushed to them."""

"""The serving side of the wire: listener, HTTP, WebSocket, dispatch, limits, health, metrics, administration.
No method is declared here, and no method imports this room.
"""

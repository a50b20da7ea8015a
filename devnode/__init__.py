"""Full nodes for trying and testing: recorded, replayed and simulated, with faults on request.
Nothing that serves or follows imports this room; it imports all rooms but `leader_bridge` and `follower`.
"""

"""The sources of a filling: what each kind is asked, and the record of each: cool-downs, response times, reserve.

No stage of the filling lives here, and no choice of who is asked next (`leader_bridge.sync.pool`).
"""

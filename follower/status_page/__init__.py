"""The status page of a follower: `/` (HTML, CSS and JavaScript in `static/`) and `/status.json` behind it.

`report.py` collects the figures once a second while somebody looks; `site.py` answers the HTTP requests; the other
files each make one part of the report. Nothing here is on the path of a JSON-RPC request.
"""

"""Who looks at each request and call from outside: the log of requests, the tracer.

`observer.py` stands around the dispatcher's ways in, while somebody observes; `request_log.py` writes lines. Where
nobody observes, nothing here runs. No method's logic and no limit lives here.
"""

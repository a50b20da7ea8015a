"""Answers kept as bytes: found by the request's own bytes or by its parameters, and dropped with what they depend on.

`raw_request.py` takes the id out of a request's bytes; `question.py` says what an answer may depend on;
`head_changes.py` finds the part of the chain that head changes left alone; `kept_answers.py` keeps, finds and joins.
No method's logic lives here: what an answer depends on is declared with the method (`rpc.registry.Cache`) and noted
by its handler (`rpc.context.Context`).
"""

"""The log of a process: its form, what is hidden in it, what is not repeated. Code logs by `logging` as ever.

`set_up.py` puts the parts together, once a process; `formats.py` writes a record as a line; `secrets.py` hides secrets;
`repeats.py` counts what is logged again and again; `recent_errors.py` keeps the newest for the status page. No handler
for one message or one library lives here.
"""

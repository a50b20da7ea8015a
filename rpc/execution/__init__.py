"""What Lotus makes of a virtual machine: tipsets, calls, gas estimates, traces.

The machine itself is elsewhere: this room says what to apply, in which order, and what the results mean. No process and
no socket here.
"""

"""The administration of a machine's processes: what operators may ask of them, and who passes it on.

`controls.py` has what every process can do, `worker.py` what a follower's process can, `bridge.py` what a bridge can;
`group.py` asks all processes of a command, so that none is reached by chance; `endpoint.py` opens the port or socket,
by rules that refuse what strangers could reach. The commands are in `follower/commands/admin/`. No decision of an
operator is stored: a process that starts anew begins without it.
"""

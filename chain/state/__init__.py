"""The state tree, and what needs it to be read: sender addresses and events with their emitters. Decodes no actor's own
state but the init, system and account actors', which addresses need: all others are for `chain.actors`.
"""

"""Encodings and trees: DAG-CBOR, big integers, bitfields, HAMT, AMT, KAMT, and objects by CID. Knows no Filecoin types:
what a tree holds is for the rooms above.
"""

"""Encodings and trees: DAG-CBOR, big integers, bitfields, HAMT, AMT, KAMT, and objects by CID. No Filecoin types here:
what a tree holds is for the rooms above.
"""

"""`State*`, `Msig*` and `Paych*` methods: what is decoded from actor states, and the search for messages."""

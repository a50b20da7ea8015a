"""The pool of workers: how much several do, what a queue costs, what is lost when workers or the queue go."""

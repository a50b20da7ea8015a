"""The pool of workers: reports, ring, gaps, the two queues, and whole processes."""

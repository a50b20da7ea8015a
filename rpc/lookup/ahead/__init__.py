"""What is looked up at a head before somebody asks, and what decides it: the questions of the last heads."""

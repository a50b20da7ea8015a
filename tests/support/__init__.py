"""What tests of several rooms use, and the tests of that."""

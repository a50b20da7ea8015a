"""What tests of several rooms use. No test stands here."""

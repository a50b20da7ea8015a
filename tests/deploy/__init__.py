"""What is in `deploy/`, and what a wheel holds."""

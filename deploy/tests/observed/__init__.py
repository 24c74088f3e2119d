"""What test_observed.py has: stand-ins, policies, callers, processes."""

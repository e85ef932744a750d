"""Tables from result lines."""

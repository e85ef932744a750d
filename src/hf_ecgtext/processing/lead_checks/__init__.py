"""Whether the leads of a recording are what their names say: what the signals prove, and what they only suggest."""

"""From result lines to tables and figures."""

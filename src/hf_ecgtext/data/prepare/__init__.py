"""From an original download to sharded Parquet files: planned, written by several processes, resumable."""

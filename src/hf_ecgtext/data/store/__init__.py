"""The stored form of records: its schema, the manifest beside it, and the dataset that reads it."""

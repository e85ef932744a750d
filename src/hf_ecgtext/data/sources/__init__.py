"""One module per dataset: its original files, its labels, and its `datasets` builder."""

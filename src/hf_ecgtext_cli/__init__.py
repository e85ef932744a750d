"""The options of `hf-ecgtext`, apart from the library that does the work.

`import hf_ecgtext` registers models with transformers, and so imports PyTorch. Nothing here imports either: help,
completion and the answer to a misspelt option come at once. A command imports its function when it runs.
"""

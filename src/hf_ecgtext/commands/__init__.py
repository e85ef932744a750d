"""The subcommands of `hf-ecgtext`; each module has `add_arguments(parser)` and `run(arguments)`."""

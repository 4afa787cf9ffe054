"""The subcommands of `metarun`, one module each, and what only they share."""

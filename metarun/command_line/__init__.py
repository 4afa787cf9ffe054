"""The command `metarun`: its words, its help, its exit statuses."""

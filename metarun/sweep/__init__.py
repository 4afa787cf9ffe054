"""Many runs from one command: planned and checked at once, each in a process of its own, here or on a cluster."""

"""Where a run's numbers go: the local record, and a second tracker beside it."""

"""Where a run's numbers go: the local record, and mirrors of it."""

"""Work on one key: observe, decide, apply, settle."""

"""What is remembered: an exact, crash-safe, replayable store of rows; search; pure functions over neighbours."""

"""The retrieval memory: an exact, crash-safe, replayable store of rows, search over them, and votes of neighbours."""

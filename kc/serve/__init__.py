"""A local page over one memory: ask, look at neighbours, teach, forget."""

"""A local page over one memory: query, look at neighbours, remember, forget."""

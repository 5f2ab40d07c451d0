"""One image at a time: a stored memory or method opened again, queried and edited."""

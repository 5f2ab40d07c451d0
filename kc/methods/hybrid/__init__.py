"""Methods that train a head and remember rows."""

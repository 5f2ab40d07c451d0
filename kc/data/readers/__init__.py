"""One reader a format: `open.open_reader` finds it by the manifest."""

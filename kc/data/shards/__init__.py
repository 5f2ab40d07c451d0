"""A benchmark as tar shards in the layout of WebDataset: written, indexed, read at random or as a stream."""

"""What is seen: manifests, readers, task splits, transforms and the incremental data module."""

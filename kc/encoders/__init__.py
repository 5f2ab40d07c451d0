"""Frozen networks: image -> pooled and dense features; text -> features."""

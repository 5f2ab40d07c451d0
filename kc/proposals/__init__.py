"""Proposals: image -> class-agnostic regions."""

"""Rows on disk: files, segments, manifests, versions, staging, erasing and exchange."""

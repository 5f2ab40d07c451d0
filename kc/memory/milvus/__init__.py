"""The same memory in Milvus, for more rows than one machine carries."""

"""Studies of a memory, and of a memory beside an open-vocabulary base: `kc study NAME`, one file a study."""

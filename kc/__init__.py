"""kc: continual learning against retrieval, over the same stream of tasks.

Importing this package loads neither torch nor lightning, so that commands start fast.
"""

__version__ = "0.1.0"

"""Scores: segmentation (mIoU, PQ) and continual learning, each as functions and a stateful class. No torch."""

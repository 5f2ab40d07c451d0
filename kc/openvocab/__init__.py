"""Open-vocabulary base classifiers: features of an image or region -> probabilities over any names."""

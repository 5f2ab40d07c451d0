"""FC-CLIP (Yu et al. 2023, arXiv 2308.02487): masks and two classifiers from one frozen convolutional CLIP."""

"""FC-CLIP (Yu et al. 2023, arXiv 2308.02487): masks and two opinions from one frozen convolutional CLIP."""

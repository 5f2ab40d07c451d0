"""Dense CLIP without training: one model, two orthogonal choices in its last block, seven published rows."""

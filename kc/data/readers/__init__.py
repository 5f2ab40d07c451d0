"""One reader a source format: class folders, tables, CUB, CIFAR, index-PNG masks, LabelMe, COCO panoptic, embedded."""

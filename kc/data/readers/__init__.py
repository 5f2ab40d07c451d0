"""One reader a source format: class folders, index-PNG masks, COCO panoptic, the embedded sets."""

"""Methods that train: one short file each over a shared LightningModule."""

"""Methods that remember: LightningModules without an optimiser."""

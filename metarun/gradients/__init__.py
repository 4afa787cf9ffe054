"""`metarun gradients`: estimators of the meta-gradient held against the exact one, with what they cost."""

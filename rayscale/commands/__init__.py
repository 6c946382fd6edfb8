"""The commands of `rayscale`, by kind; `rayscale.cli` registers them."""

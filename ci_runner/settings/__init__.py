"""The runner's settings: their groups, and the loader that reads them."""

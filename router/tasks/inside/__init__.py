"""What runs within the sandbox. The standard library only: nothing else of this repository is there."""

"""What runs inside the sandbox. Standard library only: nothing else of this repository is available there."""

"""The policy: objectives, the measured table, and the choice that an objective makes of it."""

"""The policy: objectives, the table of measurements, and the choice of an arm by objective."""

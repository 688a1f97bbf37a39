"""A bundle: one versioned folder that says what is served and what was measured of it."""

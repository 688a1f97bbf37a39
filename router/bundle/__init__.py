"""A bundle: one versioned folder with what is served and what was measured of it."""

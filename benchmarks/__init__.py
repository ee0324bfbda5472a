"""Side-by-side timings: what mcbook costs against the usual way, as ratios."""
